// What a .cu file takes from CUDA, for g++: included before it.  tests/cuda_on_cpu.py has the rest.
#pragma once
#include <math.h>

#include <algorithm>
#include <atomic>
#include <stdexcept>
#include <string>
#include <thread>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#define __global__
#define __device__
#define __shared__ static  // one for all threads: blocks with shared memory run one after another

struct dim3 {
    unsigned x, y, z;
};
inline thread_local dim3 threadIdx, blockIdx;
inline dim3 blockDim, gridDim;
using std::max, std::min;

// A barrier that notices when some threads of the block are here and others at its end: on a GPU the
// block would hang, or worse, go on.  Of atomics, since a mutex would order the threads among each
// other more than the barrier does, and hide races from ThreadSanitizer.
class Barrier {
    std::atomic<int> threads, waiting, at_end;
    std::atomic<long> round;

   public:
    std::atomic<bool> diverged;
    void begin(int count) { threads = count, waiting = 0, at_end = 0, diverged = false; }
    void wait(bool end) {
        if (diverged) return;
        long now = round;
        if (end) at_end++;
        if (++waiting == threads) {
            diverged = at_end % threads != 0;
            waiting = 0, at_end = 0, round++;
            round.notify_all();
        } else {
            round.wait(now);
        }
    }
};
inline Barrier barrier;

inline void no_waiting() {
    throw std::logic_error("__syncthreads in a kernel run in plain loops");
}
inline void (*wait_for_the_block)() = no_waiting;  // depends on how the kernel is run
inline void __syncthreads() { wait_for_the_block(); }

#ifdef HALF
#ifdef __FLT16_MANT_DIG__
typedef _Float16 half_precision;
#else
typedef __fp16 half_precision;  // older compilers on Arm
#endif
inline unsigned short float_to_half_bits(float value) {
    half_precision half = half_precision(value);
    unsigned short bits;
    __builtin_memcpy(&bits, &half, 2);
    return bits;
}
inline float half_bits_to_float(unsigned short bits) {
    half_precision half;
    __builtin_memcpy(&half, &bits, 2);
    return float(half);
}
#endif

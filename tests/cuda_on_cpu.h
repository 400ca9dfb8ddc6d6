// What a .cu file takes from CUDA, for g++: included before it.  tests/cuda_on_cpu.py has the rest.
#pragma once
#include <math.h>

#include <algorithm>
#include <condition_variable>
#include <mutex>
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

// A barrier that notices when some threads of the block are here and others elsewhere: on a GPU the
// block would hang, or worse, go on.
class Barrier {
    std::mutex mutex;
    std::condition_variable turn;
    int threads = 1, waiting = 0, place = 0;
    long round = 0;

   public:
    bool diverged = false;
    void begin(int count) { threads = count, waiting = 0, diverged = false; }
    void wait(int where) {
        std::unique_lock lock(mutex);
        if (waiting == 0) place = where;
        if (place != where) diverged = true;  // from now on nobody waits
        if (++waiting == threads || diverged) {
            waiting = 0, round++;
            turn.notify_all();
        } else {
            turn.wait(lock, [&, now = round] { return round != now; });
        }
    }
};
inline Barrier barrier;
enum { SYNCTHREADS, END_OF_BLOCK };
inline bool one_thread_each = false;  // a std::thread for every CUDA thread

inline void __syncthreads() {
    if (!one_thread_each) throw std::logic_error("__syncthreads in a kernel run in plain loops");
    barrier.wait(SYNCTHREADS);
}

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

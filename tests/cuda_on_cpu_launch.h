// Runs the kernels of the .cu file that was included before, with arguments as CuPy passes them: an
// array of pointers to the values.  tests/cuda_on_cpu.py adds the table of kernels.
#pragma once
#include <ucontext.h>

#ifdef HALF
unsigned short real::half_bits(float value) { return float_to_half_bits(value); }
float real::half_value(unsigned short bits) { return half_bits_to_float(bits); }
#endif

// "float32*,int64*,int32,112" is the signature of a kernel: arrays, numbers, bytes of a struct.
template <class T>
std::string type_name() {
    typedef std::remove_cv_t<T> U;
    if constexpr (std::is_pointer_v<U>) return type_name<std::remove_pointer_t<U>>() + "*";
    else if constexpr (std::is_same_v<U, real> && sizeof(real) == 2) return "float16";
    else if constexpr (std::is_class_v<U>) return std::to_string(sizeof(U));
    else if constexpr (std::is_floating_point_v<U>) return sizeof(U) == 4 ? "float32" : "float64";
    else return (std::is_signed_v<U> ? "int" : "uint") + std::to_string(8 * sizeof(U));
}

template <class... Types>
std::string signature(void (*)(Types...)) {
    std::string names = (std::string() + ... + (type_name<Types>() + ","));
    return names.substr(0, names.size() - 1);
}

template <class... Types>
void call(void (*kernel)(Types...), void** arguments) {
    [&]<size_t... I>(std::index_sequence<I...>) {
        kernel(*static_cast<Types*>(arguments[I])...);
    }(std::index_sequence_for<Types...>());
}

struct Kernel {
    const char* name;
    std::string signature;
    void (*run)(void**);
};
#define ENTRY(name) {#name, signature(name), [](void** arguments) { call(name, arguments); }}

static dim3 coordinates(int i, dim3 size) {
    return {i % size.x, i / size.x % size.y, i / size.x / size.y};
}

static void in_plain_loops(const Kernel& kernel, int blocks, int threads, void** arguments) {
    wait_for_the_block = no_waiting;
    for (int b = 0; b < blocks; b++)
        for (int t = 0; t < threads; t++) {
            blockIdx = coordinates(b, gridDim), threadIdx = coordinates(t, blockDim);
            kernel.run(arguments);
        }
}

static const char* const DIVERGED = "only some threads of a block came to a __syncthreads()";

// Block after block; the threads of one take turns, each up to its next __syncthreads().
struct Fibre {
    ucontext_t context;
    std::vector<char> stack = std::vector<char>(1 << 16);
    bool done;
};
static std::vector<Fibre> fibres;
static ucontext_t scheduler;
static int turn;
static const Kernel* kernel_of_fibres;
static void** arguments_of_fibres;

static void run_fibre() {
    kernel_of_fibres->run(arguments_of_fibres);
    fibres[turn].done = true;
}

static void in_fibres(const Kernel& kernel, int blocks, int threads, void** arguments) {
    kernel_of_fibres = &kernel, arguments_of_fibres = arguments;
    wait_for_the_block = [] { swapcontext(&fibres[turn].context, &scheduler); };
    fibres.resize(threads);
    for (int b = 0; b < blocks; b++) {
        blockIdx = coordinates(b, gridDim);
        for (Fibre& fibre : fibres) {
            getcontext(&fibre.context);
            fibre.context.uc_stack.ss_sp = fibre.stack.data();
            fibre.context.uc_stack.ss_size = fibre.stack.size();
            fibre.context.uc_link = &scheduler;
            fibre.done = false;
            makecontext(&fibre.context, run_fibre, 0);
        }
        for (int done = 0; done < threads;) {
            if (done) throw std::logic_error(DIVERGED);
            for (turn = 0; turn < threads; turn++) {
                threadIdx = coordinates(turn, blockDim);
                swapcontext(&scheduler, &fibres[turn].context);
                done += fibres[turn].done;
            }
        }
    }
}

// The same with a std::thread for every CUDA thread, for a race detector.
static void in_threads(const Kernel& kernel, int blocks, int threads, void** arguments) {
    wait_for_the_block = [] { barrier.wait(false); };
    barrier.begin(threads);
    std::vector<std::thread> pool;
    for (int t = 0; t < threads; t++)
        pool.emplace_back([&, t] {
            threadIdx = coordinates(t, blockDim);
            for (int b = 0; b < blocks; b++) {
                blockIdx = coordinates(b, gridDim);
                kernel.run(arguments);
                barrier.wait(true);
            }
        });
    for (std::thread& thread : pool) thread.join();
    if (barrier.diverged) throw std::logic_error(DIVERGED);
}

// All threads of all blocks at once, for a race detector: of kernels without shared memory.
static void all_at_once(const Kernel& kernel, int blocks, int threads, void** arguments) {
    std::vector<std::thread> pool;
    for (int i = 0; i < blocks * threads; i++)
        pool.emplace_back([&, i] {
            blockIdx = coordinates(i / threads, gridDim);
            threadIdx = coordinates(i % threads, blockDim);
            kernel.run(arguments);
        });
    for (std::thread& thread : pool) thread.join();
}

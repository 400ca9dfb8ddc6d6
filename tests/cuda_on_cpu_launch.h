// Runs the kernels of the .cu file that was included before, with arguments as CuPy passes them: an
// array of pointers to the values.  tests/cuda_on_cpu.py adds the table of kernels.
#pragma once

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
    for (int b = 0; b < blocks; b++)
        for (int t = 0; t < threads; t++) {
            blockIdx = coordinates(b, gridDim), threadIdx = coordinates(t, blockDim);
            kernel.run(arguments);
        }
}

// Block after block, each with a std::thread for every one of its CUDA threads.
static void in_threads(const Kernel& kernel, int blocks, int threads, void** arguments) {
    one_thread_each = true;
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
    one_thread_each = false;
    if (barrier.diverged)
        throw std::logic_error("only some threads of a block came to a __syncthreads()");
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

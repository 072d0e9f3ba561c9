// Runs CUDA sources on the CPU: each thread of a block is a fiber, barriers and warp exchanges yield, blocks run in
// turn. Shared memory is poisoned before each block. A barrier that some threads never reach is an error, so is a
// thread that leaves while others wait, or an access that is not aligned, which no device forgives. Not found: several
// threads that write to one address.
#pragma once

#include <math.h>
#include <string.h>
#include <ucontext.h>

#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#define __global__
#define __device__
#define __shared__ __attribute__((section("cuda_shared"))) static
#define __launch_bounds__(...)

extern "C" __attribute__((weak, visibility("hidden"))) char __start_cuda_shared[], __stop_cuda_shared[];

struct Index {
    unsigned x, y, z;
};

static Index threadIdx, blockIdx, blockDim, gridDim;

namespace host {

constexpr int LANES = 32;
constexpr size_t STACK = 64 << 10;

// A meeting point of `size` fibers.
struct Barrier {
    int size = 0, arrived = 0;
    unsigned round = 0;
};

struct Warp {
    Barrier barrier;
    unsigned long long values[2][LANES]; // of this exchange and the one before
};

struct Fiber {
    ucontext_t context;
    std::unique_ptr<char[]> stack{new char[STACK]};
    bool done = false;
};

static std::vector<std::unique_ptr<Fiber>> fibers;
static std::vector<Warp> warps;
static Barrier block;
static ucontext_t scheduler;
static std::function<void()> body;
static int current;
static bool moved;         // whether any fiber did something since the scheduler's last round
static const char *failed; // why the launch ended

inline void yield() { swapcontext(&fibers[current]->context, &scheduler); }

inline void wait(Barrier &barrier) {
    unsigned round = barrier.round;
    moved = true;
    if (++barrier.arrived == barrier.size) {
        barrier.arrived = 0;
        ++barrier.round;
        return;
    }
    while (barrier.round == round) yield();
}

inline void enter() {
    body();
    fibers[current]->done = moved = true;
    if (block.arrived || warps[current / LANES].barrier.arrived) failed = "a thread left while others wait at a barrier";
}

// All lanes give a value; returns those of the warp.
template <typename T> const unsigned long long *exchange(T value) {
    static_assert(sizeof(T) <= sizeof(unsigned long long), "a lane hands over at most eight bytes");
    Warp &warp = warps[current / LANES];
    unsigned long long *values = warp.values[warp.barrier.round % 2];
    memcpy(&values[current % LANES], &value, sizeof(T));
    wait(warp.barrier);
    return values;
}

inline void run_block(int threads) {
    if (__start_cuda_shared) memset(__start_cuda_shared, 0xa5, __stop_cuda_shared - __start_cuda_shared);
    while (static_cast<int>(fibers.size()) < threads) fibers.emplace_back(new Fiber);
    warps.assign(threads / LANES, Warp{});
    for (Warp &warp : warps) warp.barrier.size = LANES;
    block = Barrier{};
    block.size = threads;
    for (int thread = 0; thread < threads; ++thread) {
        Fiber &fiber = *fibers[thread];
        fiber.done = false;
        getcontext(&fiber.context);
        fiber.context.uc_stack.ss_sp = fiber.stack.get();
        fiber.context.uc_stack.ss_size = STACK;
        fiber.context.uc_link = &scheduler;
        makecontext(&fiber.context, enter, 0);
    }
    for (bool running = true; running && !failed;) {
        running = moved = false;
        for (current = 0; current < threads && !failed; ++current) {
            if (fibers[current]->done) continue;
            running = true;
            unsigned index = current;
            threadIdx = {index % blockDim.x, index / blockDim.x % blockDim.y, index / blockDim.x / blockDim.y};
            swapcontext(&scheduler, &fibers[current]->context);
        }
        if (running && !moved && !failed) failed = "threads wait at barriers that the others never reach";
    }
}

template <typename... Arguments, size_t... Indices>
const char *launch(void (*kernel)(Arguments...), const unsigned *grid, const unsigned *threads, void **arguments,
                   std::index_sequence<Indices...>) {
    gridDim = {grid[0], grid[1], grid[2]};
    blockDim = {threads[0], threads[1], threads[2]};
    int count = threads[0] * threads[1] * threads[2];
    if (count % LANES) return "blocks must be whole warps";
    failed = nullptr;
    body = [=] { kernel(*static_cast<std::decay_t<Arguments> *>(arguments[Indices])...); };
    for (blockIdx.z = 0; blockIdx.z < grid[2]; ++blockIdx.z)
        for (blockIdx.y = 0; blockIdx.y < grid[1]; ++blockIdx.y)
            for (blockIdx.x = 0; blockIdx.x < grid[0] && !failed; ++blockIdx.x) run_block(count);
    return failed;
}

// The kernel's arguments as words: p, f or i for pointer, floating or whole number, and the size in bytes.
template <typename... Arguments> const char *kinds(void (*)(Arguments...)) {
    static std::string words;
    words.clear();
    ((words += (std::is_pointer_v<Arguments> ? "p" : std::is_floating_point_v<Arguments> ? "f" : "i") +
               std::to_string(sizeof(Arguments)) + " "),
     ...);
    return words.c_str();
}

template <typename... Arguments>
const char *launch(void (*kernel)(Arguments...), const unsigned *grid, const unsigned *threads, void **arguments) {
    return launch(kernel, grid, threads, arguments, std::index_sequence_for<Arguments...>{});
}

} // namespace host

// What code built with -fsanitize=alignment calls.
extern "C" __attribute__((visibility("hidden"))) void __ubsan_handle_type_mismatch_v1(void *, void *) {
    host::failed = "an access is not aligned to its type";
    for (;;) host::yield(); // the launch has ended; the access itself would end the process
}

inline void __syncthreads() { host::wait(host::block); }

template <typename T> T __shfl_down_sync(unsigned, T value, int step) {
    int lane = host::current % host::LANES;
    const unsigned long long *values = host::exchange(value);
    if (lane + step >= host::LANES) return value;
    memcpy(&value, &values[lane + step], sizeof(T));
    return value;
}

inline unsigned __match_any_sync(unsigned, int value) {
    const unsigned long long *values = host::exchange(value);
    unsigned same = 0;
    for (int lane = 0; lane < host::LANES; ++lane) {
        int other;
        memcpy(&other, &values[lane], sizeof(other));
        same |= static_cast<unsigned>(other == value) << lane;
    }
    return same;
}

inline int atomicAdd(int *place, int value) {
    int before = *place;
    *place += value;
    return before;
}

inline float __fdividef(float a, float b) { return a / b; }
inline int __ffs(unsigned bits) { return __builtin_ffs(bits); }
inline int __popc(unsigned bits) { return __builtin_popcount(bits); }
inline int min(int a, int b) { return a < b ? a : b; }
inline int max(int a, int b) { return a > b ? a : b; }

inline float __uint_as_float(unsigned bits) {
    float value;
    memcpy(&value, &bits, sizeof(value));
    return value;
}

inline unsigned __float_as_uint(float value) {
    unsigned bits;
    memcpy(&bits, &value, sizeof(bits));
    return bits;
}

inline float half_to_float(unsigned short bits) {
    _Float16 value;
    memcpy(&value, &bits, sizeof(value));
    return value;
}

inline unsigned short float_to_half(float wide) {
    _Float16 value = static_cast<_Float16>(wide);
    unsigned short bits;
    memcpy(&bits, &value, sizeof(bits));
    return bits;
}

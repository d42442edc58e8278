// What CUDA source needs to run on a CPU, one block after the other: each thread of a block is a fiber, and goes on
// at barriers and exchanges when the others have come there too. It shows what kernels compute, not how fast.
#pragma once

#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <vector>

#define __global__
#define __device__
#define __shared__ static  // blocks run one at a time
#define __launch_bounds__(threads)

using std::isnan;
using std::max;
using std::min;

enum cudaError_t { cudaSuccess, cudaErrorInvalidConfiguration };
enum cudaDeviceAttr { cudaDevAttrMultiProcessorCount };
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize };
using cudaStream_t = void*;

struct float4 {
  alignas(16) float x;
  float y, z, w;
};
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

struct Index {
  unsigned x;
};
inline Index threadIdx, blockIdx, blockDim, gridDim;

namespace emulated {

constexpr int WARP = 32, STACK = 1 << 17;

struct Fiber {
  ucontext_t context;
  std::vector<char> stack;
  bool done, waiting;
};

inline std::vector<Fiber> fibers;
inline ucontext_t scheduler;
inline std::function<void()> kernel;
inline std::vector<double> slots;  // what threads of a warp show one another
inline double dynamic_memory[1 << 15];
inline bool block_wide;  // whether the barrier that threads wait at is one of the whole block
inline cudaError_t last_error = cudaSuccess;

inline void enter() {
  kernel();
  fibers[threadIdx.x].done = true;
}

inline void wait(bool whole) {
  const unsigned self = threadIdx.x;
  fibers[self].waiting = true;
  block_wide = whole;
  swapcontext(&fibers[self].context, &scheduler);
  threadIdx.x = self;
}

// Runs threads first .. last - 1 until each is done or waits.
inline void advance(int first, int last) {
  for (int t = first; t < last; t++) {
    if (fibers[t].done || fibers[t].waiting) continue;
    threadIdx.x = t;
    swapcontext(&scheduler, &fibers[t].context);
  }
}

inline void run_block(int threads) {
  fibers.resize(threads);
  slots.assign(threads, 0);
  for (int t = 0; t < threads; t++) {
    Fiber& fiber = fibers[t];
    fiber.stack.resize(STACK);
    fiber.done = fiber.waiting = false;
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack.data();
    fiber.context.uc_stack.ss_size = STACK;
    fiber.context.uc_link = &scheduler;
    makecontext(&fiber.context, enter, 0);
  }
  for (bool alive = true; alive;) {
    alive = false;
    // A warp goes from exchange to exchange until it is done or stands at a barrier of the block.
    for (int first = 0; first < threads; first += WARP) {
      const int last = std::min(first + WARP, threads);
      for (bool within = true; within;) {
        block_wide = false;
        advance(first, last);
        within = false;
        for (int t = first; t < last; t++) within |= fibers[t].waiting && !block_wide;
        if (within)
          for (int t = first; t < last; t++) fibers[t].waiting = false;
      }
    }
    for (Fiber& fiber : fibers) {
      alive |= fiber.waiting;
      fiber.waiting = false;
    }
  }
}

template <typename... P, typename... A>
void run(void (*function)(P...), unsigned blocks, int threads, size_t shared, cudaStream_t, A... arguments) {
  if (shared > sizeof dynamic_memory || threads > 1024 || blocks == 0) {
    last_error = cudaErrorInvalidConfiguration;
    return;
  }
  kernel = [&] { function(arguments...); };
  blockDim.x = threads, gridDim.x = blocks;
  for (blockIdx.x = 0; blockIdx.x < blocks; blockIdx.x++) {
    std::memset(dynamic_memory, 0xff, sizeof dynamic_memory);  // NaN: nothing may lean on zeros
    run_block(threads);
  }
}

}  // namespace emulated

inline void __syncthreads() { emulated::wait(true); }
inline void __syncwarp() { emulated::wait(false); }

template <typename T>
T __shfl_sync(unsigned, T value, int lane) {
  std::memcpy(&emulated::slots[threadIdx.x], &value, sizeof value);
  emulated::wait(false);
  std::memcpy(&value, &emulated::slots[threadIdx.x / emulated::WARP * emulated::WARP + lane], sizeof value);
  emulated::wait(false);
  return value;
}

inline unsigned __ballot_sync(unsigned, bool vote) {
  emulated::slots[threadIdx.x] = vote;
  emulated::wait(false);
  const unsigned first = threadIdx.x / emulated::WARP * emulated::WARP;
  unsigned votes = 0;
  for (unsigned t = 0; t < emulated::WARP && first + t < blockDim.x; t++)
    votes |= unsigned(emulated::slots[first + t] != 0) << t;
  emulated::wait(false);
  return votes;
}

inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline float __fdividef(float a, float b) { return a / b; }
inline float atomicAdd(float* to, float value) {
  const float before = *to;
  *to += value;
  return before;
}

inline cudaError_t cudaGetDevice(int* device) { return *device = 0, cudaSuccess; }
inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr, int) { return *value = 3, cudaSuccess; }
inline cudaError_t cudaGetLastError() { return emulated::last_error; }
template <typename Kernel>
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, Kernel, int, size_t) {
  return *blocks = 1, cudaSuccess;
}
template <typename Kernel>
cudaError_t cudaFuncSetAttribute(Kernel, cudaFuncAttribute, int) {
  return cudaSuccess;
}

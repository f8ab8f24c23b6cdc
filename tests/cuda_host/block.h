// Runs a CUDA grid on the CPU: blocks one after the other, each thread of a block a fiber. Threads
// that wait for one another (barriers, warp collectives) are suspended; a program that CUDA leaves
// undefined there ends the process with a message that names the place.
//
// Everything here is global: one grid runs at a time (tests/cuda_host/runtime.cc sees to it). It is
// compiled without sanitizers, unlike the kernels, and works with AddressSanitizer, with the race
// detector (race.h) and with neither. Kernels reach it through functions that are not inline:
// inline ones would be instrumented.
#pragma once

#include <cstdint>
#include <string>

#include "kernels/cuda/runtime/launch_shape.h"
#include "tests/cuda_host/vector_types.h"

namespace bora::cuda_host {

struct Place {
  const char* file = "";
  int line = 0;
};

// What CUDA leaves open, both ways of which are to be tested.
struct RunOptions {
  // Asynchronous copies happen when they are issued; otherwise when they are waited for.
  bool eager_copies = false;
  // 0: threads run in order; otherwise the seed of a random order.
  uint64_t order_seed = 0;
};
void SetRunOptions(const RunOptions& options);
const RunOptions& run_options();

// Calls body(arguments) once for each thread of the grid.
void RunGrid(const LaunchShape& shape, void (*body)(void*), void* arguments);

// What threadIdx, blockIdx, blockDim and gridDim read. Valid inside a grid.
struct BuiltIns {
  uint3 thread_idx, block_idx, block_dim, grid_dim;
};
extern BuiltIns built_ins;

// The running thread's index in its block, -1 outside a grid, also on other threads of the process.
// Threads 32 i to 32 i + 31 are a warp.
int CurrentThread();

// __syncthreads().
void BlockBarrier(Place place);

// A warp collective: lanes bring a record each; the last lane of the mask to arrive calls
// combine(records, mask), records indexed by lane and null outside the mask, and all continue.
using Combine = void (*)(void* const* records, unsigned mask);
void Rendezvous(const char* operation, unsigned mask, void* record, Combine combine, Place place);

// Ends the process with the message, the place, and where all threads stand.
[[noreturn]] void Fail(Place place, const std::string& message);

// The array that a thread of the block takes as its take_idx-th at [offset, offset + n_bytes) of
// shared memory: a block of exactly n_bytes, the same for all threads, full of 0xff (NaN in bf16
// and float) when the first thread takes it.
void* SharedArray(int take_idx, int64_t offset, int64_t n_bytes, int64_t alignment, Place place);
// Whether [address, address + n_bytes) lies in one shared array of the running block.
bool InSharedArray(const void* address, int64_t n_bytes);

// Makes memory inaccessible to kernels, and accessible again, where AddressSanitizer is linked in;
// whether the first inaccessible byte is in a range (null: none).
void Poison(void* address, int64_t n_bytes);
void Unpoison(void* address, int64_t n_bytes);
const void* FirstPoisoned(const void* address, int64_t n_bytes);
bool HasAddressSanitizer();

}  // namespace bora::cuda_host

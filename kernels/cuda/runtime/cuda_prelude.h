// Kernels include this file instead of CUDA's headers. It provides the language, the instructions
// that need PTX, the allocator of shared memory and the launch. A compiler other than nvcc gets the
// same names from tests/cuda_host/, which run a kernel on the CPU. No other file asks which
// compiler it is.
//
// Rules for kernels, so that both work:
//   - no __shared__ and no PTX of their own; no static shared memory;
//   - blocks are multiples of 32 threads, all of them live until the last barrier; masks are full;
//   - __syncwarp() wherever lanes exchange data through memory: lockstep is not a barrier;
//   - no memcpy of memory that other threads see: the race detector sees plain accesses only.
#pragma once

#ifdef __CUDACC__
#include <cuda_runtime.h>

#include "kernels/cuda/runtime/launch.h"
#include "kernels/cuda/runtime/ptx.h"
#include "kernels/cuda/runtime/shared_memory.h"
#else
#include "tests/cuda_host/language.h"
#include "tests/cuda_host/launch.h"
#include "tests/cuda_host/ptx.h"
#include "tests/cuda_host/shared_memory.h"
#endif

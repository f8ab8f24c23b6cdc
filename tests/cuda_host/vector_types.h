// The one of CUDA's built-in vector types that kernels see, for the CPU.
#pragma once

struct uint3 {
  unsigned x, y, z;
};

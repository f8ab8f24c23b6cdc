// Whether Hopper's warpgroup instructions (wgmma) give the bits of mma.sync. Products of many
// tokens could use them where the same request must give the same bytes at any load only if they
// do: a row of few tokens goes through mma.sync.
#pragma once

#include <cstdint>

#include "base/bf16.h"
#include "kernels/cuda/runtime/cuda_device.h"

namespace bora {

inline constexpr int kProbeRows = 64;     // of the weight: what an instruction takes
inline constexpr int kProbeTokens = 128;  // the widest of the two
inline constexpr int kProbeCols = 1024;   // in one chain of instructions, as a leaf has

// w: [kProbeRows, kProbeCols], x: [kProbeTokens, kProbeCols]. Each [kProbeTokens, kProbeRows]: the
// products by chains of mma.m16n8k16, of wgmma.m64n8k16 and of wgmma.m64n128k16. Queued; compute
// capability 9.0 only.
void ProbeWgmma(CudaDevice& device, const Bf16* w, const Bf16* x, float* by_mma, float* by_narrow,
                float* by_wide);

}  // namespace bora

#include "kernels/add_rms_norm.h"

#include "kernels/cpu/cpu_device.h"
#include "kernels/cpu/simd/simd.h"

namespace bora {

void AddRmsNorm(CpuDevice& device, const AddRmsNormShape& shape, float* residual,
                const float* delta, const float* gain, float* out) {
  const int64_t dim = shape.dim;
  // 32768 elements take about as long as waking a helper (5 us).
  const int64_t grain = 1 + 32768 / dim;
  device.ParallelFor(shape.n_tokens, grain, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      device.simd().add_rms_norm(residual + t * dim, delta == nullptr ? nullptr : delta + t * dim,
                                 gain, dim, shape.eps, out + t * dim);
    }
  });
}

void Add(CpuDevice& device, int64_t n, const float* delta, float* residual) {
  // 16 Ki floats take about as long as waking a helper.
  device.ParallelFor(n, 16 << 10, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) residual[i] += delta[i];
  });
}

}  // namespace bora

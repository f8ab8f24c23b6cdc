#include "kernels/matmul.h"

#include <algorithm>
#include <cstring>

#include "base/int_math.h"
#include "kernels/simd.h"

namespace bora {
namespace {

// Rows of x that are rounded and padded at a time: bounds the scratch (256 x 14336 floats = 14 MB)
// and is long enough that the two hand-overs per chunk do not count.
constexpr int64_t kPackRows = 256;

// Bytes of x that stay in a core's second-level cache while a range of w passes by.
constexpr int64_t kCachedXBytes = 512 << 10;

// Multiply-adds that take about as long as waking a helper (5 us at 25-50 G/s).
constexpr int64_t kGrainMultiplyAdds = 128 << 10;

// Copies rows of x to a stride that is a multiple of 16, rounded to bf16 if w is.
void PackRows(CpuDevice& device, const float* x, int64_t m, const Weight& w, int64_t stride,
              float* packed) {
  device.ParallelFor(m, 1 + 32768 / stride, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const float* from = x + i * w.n_cols;
      float* to = packed + i * stride;
      if (w.dtype == DType::kBf16) {
        device.simd().round_to_bf16(from, w.n_cols, to);
      } else {
        std::memcpy(to, from, w.n_cols * sizeof(float));
      }
      std::fill(to + w.n_cols, to + stride, 0.0f);
    }
  });
}

}  // namespace

void MatMul(CpuDevice& device, const float* x, int64_t m, const Weight& w, float* y) {
  const int64_t stride = RoundUp(w.n_cols, kSimdLanes);
  const bool pack = w.dtype == DType::kBf16 || stride != w.n_cols;
  const auto kernel =
      w.dtype == DType::kBf16 ? device.simd().matmul_bf16 : device.simd().matmul_f32;
  const int64_t step = std::max<int64_t>(8, kCachedXBytes / (stride * 4));
  for (int64_t begin = 0; begin < m; begin += kPackRows) {
    const int64_t n_rows = std::min(kPackRows, m - begin);
    const float* rows = x + begin * w.n_cols;
    if (pack) {
      float* packed = device.Scratch(n_rows * stride);
      PackRows(device, rows, n_rows, w, stride, packed);
      rows = packed;
    }
    const int64_t grain = 1 + kGrainMultiplyAdds / (stride * n_rows);
    device.ParallelFor(w.n_rows, RoundUp(grain, 4), [&](int64_t n_begin, int64_t n_end) {
      for (int64_t i = 0; i < n_rows; i += step) {
        kernel({.x = rows + i * stride,
                .x_stride = stride,
                .m = std::min(step, n_rows - i),
                .w = static_cast<const char*>(w.data) + n_begin * w.n_cols * DTypeBytes(w.dtype),
                .n_rows = n_end - n_begin,
                .n_cols = w.n_cols,
                .y = y + (begin + i) * w.n_rows + n_begin,
                .y_stride = w.n_rows});
      }
    });
  }
}

}  // namespace bora

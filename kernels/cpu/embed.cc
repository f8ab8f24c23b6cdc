#include "kernels/embed.h"

#include <cstring>

#include "base/bf16.h"
#include "base/check.h"
#include "kernels/cpu/cpu_device.h"

namespace bora {

void Embed(CpuDevice& device, const Weight& table, absl::Span<const int32_t> tokens, float* out) {
  const int64_t dim = table.n_cols;
  // A copy of 64 KB (16384 floats) takes about as long as waking a helper.
  const int64_t grain = 1 + 16384 / dim;
  device.ParallelFor(tokens.size(), grain, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      const int64_t token_id = tokens[t];
      CHECK(token_id >= 0 && token_id < table.n_rows)
          << "token id " << token_id << " not in [0, " << table.n_rows << ")";
      float* row = out + t * dim;
      if (table.dtype == DType::kF32) {
        std::memcpy(row, static_cast<const float*>(table.data) + token_id * dim,
                    dim * sizeof(float));
      } else if (table.dtype == DType::kF16) {
        const Half* from = static_cast<const Half*>(table.data) + token_id * dim;
        for (int64_t i = 0; i < dim; ++i) row[i] = ToFloat(from[i]);
      } else {
        const Bf16* from = static_cast<const Bf16*>(table.data) + token_id * dim;
        for (int64_t i = 0; i < dim; ++i) row[i] = ToFloat(from[i]);
      }
    }
  });
}

}  // namespace bora

#include "model/planning/roofline.h"

#include <algorithm>
#include <cmath>

#include "base/check.h"

namespace bora {
namespace {

// Microseconds of a second.
constexpr double kMicro = 1e6;
constexpr double kPairLatencyUs = 6;
constexpr double kEightLatencyUs = 17.3;  // us; the middle of the published range, 16.8 to 17.8
// Residuals and logits cross between ranks as float.
constexpr double kFloatBytes = 4;

}  // namespace

double CollectiveLatencyMicroseconds(int n_ranks) {
  CHECK_GT(n_ranks, 1);
  constexpr double kPerDoublingUs = (kEightLatencyUs - kPairLatencyUs) / 2;
  return kPairLatencyUs + kPerDoublingUs * (std::log2(n_ranks) - 1);
}

double AllReduceMicroseconds(const DeviceLimits& limits, int n_ranks, double n_bytes) {
  if (n_ranks == 1) return 0;
  const LinkLimits link = {CollectiveLatencyMicroseconds(n_ranks), limits.collective_bytes_per_s};
  const double others_bytes = (n_ranks - 1) * n_bytes;
  return std::min(link.Microseconds(others_bytes), 2 * link.Microseconds(others_bytes / n_ranks));
}

StageRoofline::StageRoofline(const ModelConfig& config, const RankShape& shape,
                             const DeviceLimits& limits)
    : limits_(limits),
      dim_(config.dim),
      vocab_size_(config.vocab_size),
      tp_size_(shape.tp_size),
      n_layers_(shape.layers.n_layers()) {
  const int64_t q_cols = shape.local_n_heads * config.head_dim;
  const int64_t kv_cols = shape.local_n_kv_heads * config.head_dim;
  layer_elements_ =
      n_layers_ * config.dim * (2 * q_cols + 2 * kv_cols + 3 * shape.local_hidden_dim);
  if (shape.has_head) head_elements_ = shape.local_vocab_size * config.dim;
  const int64_t kv_bytes = 2 * n_layers_ * kv_cols * kPlannedElementBytes;
  context_cost_.context_token_us =
      static_cast<double>(kv_bytes) / limits.memory_bytes_per_s * kMicro;
  // Query times key and weight times value: each a product and a sum per element, 4 flop in all.
  context_cost_.pair_us = static_cast<double>(4 * n_layers_ * q_cols) / limits.flop_per_s * kMicro;
}

double StageRoofline::ProductMicroseconds(int64_t n_elements, int64_t n_rows) const {
  if (n_rows == 0) return 0;
  const double bytes_us =
      static_cast<double>(n_elements * kPlannedElementBytes) / limits_.memory_bytes_per_s * kMicro;
  const double flop_us = 2 * static_cast<double>(n_elements) * static_cast<double>(n_rows) /
                         limits_.flop_per_s * kMicro;
  return std::max(bytes_us, flop_us);
}

StageTime StageRoofline::Predict(const StepWork& work, int64_t n_sampled) const {
  const double base_us = ProductMicroseconds(layer_elements_, work.n_tokens) +
                         ProductMicroseconds(head_elements_, n_sampled);
  StageTime time;
  time.compute_us = StepMicroseconds(base_us, context_cost_, work);
  if (tp_size_ == 1) return time;
  const double residual_bytes = kFloatBytes * static_cast<double>(work.n_tokens * dim_);
  time.communication_us =
      2 * static_cast<double>(n_layers_) * AllReduceMicroseconds(limits_, tp_size_, residual_bytes);
  if (head_elements_ > 0 && n_sampled > 0) {
    // Tensor rank 0 gathers the logits of the other ranks' parts of the vocabulary.
    const LinkLimits link = {CollectiveLatencyMicroseconds(tp_size_),
                             limits_.collective_bytes_per_s};
    time.communication_us += link.Microseconds(
        kFloatBytes * static_cast<double>(n_sampled * vocab_size_) * (tp_size_ - 1) / tp_size_);
  }
  return time;
}

}  // namespace bora

// What the conformance tests share: golden files of the reference implementation, and how their
// tokens are passed through the product.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "kernels/device_views.h"
#include "model/step/step.h"

namespace bora {

// What the reference said about one checkpoint and one prompt. A plain value.
struct Golden {
  int64_t vocab_size = 0;
  std::vector<int32_t> prompt;     // [n_prompt]
  std::vector<int32_t> greedy;     // [n_greedy] the reference's continuation
  std::vector<int32_t> positions;  // [n], ascending
  // [n, vocab_size]: row i follows the token at positions[i] of the prompt and its continuation.
  std::vector<float> logits;
  std::vector<float> logits_bf16;  // as logits, of the reference run in bfloat16; may be empty

  // The prompt and the continuation but its last token: everything that has logits.
  std::vector<int32_t> Tokens() const;
  absl::Span<const float> Row(absl::Span<const float> rows, size_t i) const {
    return rows.subspan(i * vocab_size, vocab_size);
  }
};

// Path of a checkpoint or golden file in the source tree.
std::string GoldenPath(const std::string& name);

// Reads goldens/<name>.safetensors. INVALID_ARGUMENT names what does not fit together.
absl::StatusOr<Golden> LoadGolden(const std::string& name);

// One run of the product: which checkpoint, against which golden, divided how.
struct ConformanceCase {
  const char* checkpoint = "";
  const char* golden = "";
  int tp_size = 1;
  int pp_size = 1;
  DType dtype = DType::kF32;
};

std::string CaseName(const testing::TestParamInfo<ConformanceCase>& info);

// |logit - golden| <= kLogitTolerance * max |golden| of the row. The reference itself is up to
// 1.2e-5 from exact (README.md).
inline constexpr double kLogitTolerance = 1e-4;

// The largest magnitude of a row: what errors are relative to.
double MaxAbs(absl::Span<const float> row);

// The slot that these tests use; the limits have one more, so that 0 is not the answer to all.
inline constexpr int32_t kSlot = 1;

// Limits for one sequence of n_tokens tokens, with spare blocks and a spare slot.
GroupLimits LimitsForSequence(int64_t vocab_size, int64_t n_tokens);

// Splits tokens into chunks of odd sizes, at most max_num_batched_tokens each.
std::vector<absl::Span<const int32_t>> OddChunks(absl::Span<const int32_t> tokens,
                                                 const GroupLimits& limits);

}  // namespace bora

// A golden file of the reference implementation, and the plans that pass its tokens through the
// product.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "model/step.h"

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

// Makes the plans of one sequence. Its blocks are granted in descending order of their ids, so that
// neighbours in the sequence are not neighbours in memory. Owned by one thread.
class SequencePlanner {
 public:
  SequencePlanner(int64_t epoch, int32_t n_prompt_tokens, const GroupLimits& limits,
                  const SamplingParams& sampling);

  // The next tokens of the sequence. next_token: the one after them, or -1 where it is not known.
  struct Chunk {
    absl::Span<const int32_t> tokens;
    int32_t next_token = -1;
    bool sample = false;
    bool prompt_logprobs = false;
  };
  StepPlan Feed(const Chunk& chunk);

  // One decoding step on the token that was sampled last.
  StepPlan FeedSampled();

  int32_t n_tokens() const { return n_tokens_; }

 private:
  StepPlan NextPlan(int32_t n_new_tokens);

  const int64_t epoch_;
  const int32_t n_prompt_tokens_;
  const GroupLimits limits_;
  const SamplingParams sampling_;
  int64_t n_plans_ = 0;
  int32_t n_tokens_ = 0;
  int32_t n_blocks_ = 0;
};

// Limits for one sequence of n_tokens tokens, with spare blocks and a spare slot.
GroupLimits LimitsForSequence(int64_t vocab_size, int64_t n_tokens);

// Splits tokens into chunks of odd sizes, at most max_num_batched_tokens each.
std::vector<absl::Span<const int32_t>> OddChunks(absl::Span<const int32_t> tokens,
                                                 const GroupLimits& limits);

}  // namespace bora

// The product against the public reference implementation (tests/conformance/README.md): the same
// checkpoints, the same tokens, and whole rows of logits. greedy_test.cc has the rest of the way.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "base/status_macros.h"
#include "kernels/cpu/cpu_device.h"
#include "kernels/ops.h"
#include "model/checkpoint/checkpoint.h"
#include "model/checkpoint/weights_source.h"
#include "model/planning/partition.h"
#include "tests/conformance/golden.h"
#include "tests/worker/plan_builder.h"
#include "worker/stage/collectives.h"
#include "worker/stage/stage.h"
#include "worker/stage/step_inputs.h"
#include "worker/weights/host_weights.h"

namespace bora {
namespace {

// Largest |logit - golden| of a row, relative to the row's largest |golden|.
double RelativeError(absl::Span<const float> logits, absl::Span<const float> golden) {
  double worst = 0;
  for (size_t i = 0; i < golden.size(); ++i) {
    const double difference = std::abs(static_cast<double>(logits[i]) - golden[i]);
    // A NaN must not pass as small.
    worst = std::isfinite(difference) ? std::max(worst, difference) : HUGE_VAL;
  }
  return worst / MaxAbs(golden);
}

double RmsDifference(absl::Span<const float> a, absl::Span<const float> b) {
  double sum = 0;
  for (size_t i = 0; i < b.size(); ++i) sum += std::pow(static_cast<double>(a[i]) - b[i], 2);
  return std::sqrt(sum / static_cast<double>(b.size()));
}

// The stages of one tensor rank, joined by copies, so that whole rows of logits can be seen. The
// sampler in front of them is left out, nothing else. Owned by one thread.
class StageChain {
 public:
  static absl::StatusOr<std::unique_ptr<StageChain>> Load(const std::string& checkpoint_dir,
                                                          DType dtype, int pp_size,
                                                          const GroupLimits& limits) {
    ASSIGN_OR_RETURN(Checkpoint checkpoint, Checkpoint::Open(checkpoint_dir));
    const CheckpointWeights source(std::move(checkpoint));
    ASSIGN_OR_RETURN(const Partition partition, MakePartition(source.config(), 1, pp_size));
    auto chain = std::unique_ptr<StageChain>(new StageChain(source.config(), limits));
    for (int stage = 0; stage < pp_size; ++stage) {
      ASSIGN_OR_RETURN(chain->weights_.emplace_back(),
                       LoadHostWeights(source, ShapeOfRank(source.config(), partition, stage, 0),
                                       dtype, chain->device_));
      chain->stages_.push_back(
          std::make_unique<Stage<CpuDevice>>(&chain->device_, chain->weights_.back().get()));
      RETURN_IF_ERROR(chain->stages_.back()->Prepare(limits, /*poison_kv=*/true));
    }
    return chain;
  }

  // Passes the plan's tokens through the stages and appends the logits after the tokens at
  // token_idx [n] to `logits`.
  absl::Status Run(const StepPlan& plan, absl::Span<const int32_t> token_idx,
                   std::vector<float>* logits) {
    RETURN_IF_ERROR(slots_.Apply(plan));
    inputs_.Build(plan, slots_, std::vector<int32_t>(limits_.max_num_seqs, 0));
    stages_.front()->EmbedTokens(inputs_.token_ids());
    for (size_t i = 0; i < stages_.size(); ++i) {
      if (i > 0) {
        const absl::Span<const float> from = stages_[i - 1]->residual(inputs_.n_tokens());
        std::copy(from.begin(), from.end(), stages_[i]->residual(inputs_.n_tokens()).begin());
      }
      RETURN_IF_ERROR(stages_[i]->RunLayers(inputs_.view(), rope_, collectives_));
    }
    for (size_t begin = 0; begin < token_idx.size(); begin += kHeadTileRows) {
      ASSIGN_OR_RETURN(
          const absl::Span<const float> tile,
          stages_.back()->Logits(token_idx.subspan(begin, kHeadTileRows), collectives_));
      logits->insert(logits->end(), tile.begin(), tile.end());
    }
    return absl::OkStatus();
  }

 private:
  StageChain(const ModelConfig& config, const GroupLimits& limits)
      : device_(2),
        limits_(limits),
        slots_(limits),
        inputs_(limits),
        rope_(config.head_dim, limits.max_model_len, config.rope_theta),
        collectives_(RankPlace(), nullptr) {}

  CpuDevice device_;
  const GroupLimits limits_;
  SlotTracker slots_;
  StepInputs inputs_;
  RopeTable rope_;
  Collectives collectives_;
  std::vector<std::unique_ptr<RankWeights>> weights_;  // [pp_size]
  std::vector<std::unique_ptr<Stage<CpuDevice>>> stages_;
};

// Indices inside tokens [begin, end) of the positions whose logits the golden has.
std::vector<int32_t> KeptTokens(const Golden& golden, int32_t begin, int32_t end) {
  std::vector<int32_t> token_idx;
  for (const int32_t position : golden.positions) {
    if (position >= begin && position < end) token_idx.push_back(position - begin);
  }
  return token_idx;
}

// The product's logits at the golden's positions: the prompt in odd chunks, then the golden's
// continuation token by token. [n, vocab_size]
absl::StatusOr<std::vector<float>> ProductLogits(const ConformanceCase& test, const Golden& golden,
                                                 DType dtype) {
  const std::vector<int32_t> tokens = golden.Tokens();
  const GroupLimits limits =
      LimitsForSequence(golden.vocab_size, static_cast<int64_t>(tokens.size()) + 1);
  ASSIGN_OR_RETURN(const std::unique_ptr<StageChain> chain,
                   StageChain::Load(GoldenPath(test.checkpoint), dtype, test.pp_size, limits));
  const int32_t n_prompt = static_cast<int32_t>(golden.prompt.size());
  PlanBuilder plans(limits, /*epoch=*/1);
  plans.Open(kSlot, n_prompt, SamplingParams());
  std::vector<absl::Span<const int32_t>> chunks = OddChunks(golden.prompt, limits);
  for (size_t i = 0; i + 1 < golden.greedy.size(); ++i) {
    chunks.push_back(absl::MakeConstSpan(golden.greedy).subspan(i, 1));
  }
  std::vector<float> logits;
  int32_t begin = 0;
  for (const absl::Span<const int32_t> chunk : chunks) {
    const int32_t end = begin + static_cast<int32_t>(chunk.size());
    plans.AddRow(kSlot, chunk, {});
    RETURN_IF_ERROR(chain->Run(plans.Take(), KeptTokens(golden, begin, end), &logits));
    begin = end;
  }
  return logits;
}

class LogitsTest : public testing::TestWithParam<ConformanceCase> {};

TEST_P(LogitsTest, AreTheReferencesInFloat32) {
  const absl::StatusOr<Golden> golden = LoadGolden(GetParam().golden);
  ASSERT_TRUE(golden.ok()) << golden.status();
  const absl::StatusOr<std::vector<float>> logits = ProductLogits(GetParam(), *golden, DType::kF32);
  ASSERT_TRUE(logits.ok()) << logits.status();
  ASSERT_EQ(logits->size(), golden->logits.size());
  double worst = 0;
  for (size_t i = 0; i < golden->positions.size(); ++i) {
    const double error = RelativeError(golden->Row(*logits, i), golden->Row(golden->logits, i));
    EXPECT_LE(error, kLogitTolerance) << "after position " << golden->positions[i];
    worst = std::max(worst, error);
  }
  std::printf("largest relative error %.2g of %.2g allowed, %zu rows\n", worst, kLogitTolerance,
              golden->positions.size());
}

INSTANTIATE_TEST_SUITE_P(Conformance, LogitsTest,
                         testing::Values(ConformanceCase{"gqa4_hf", "gqa4"},
                                         ConformanceCase{"gqa4_hf", "gqa4_long"},
                                         ConformanceCase{"gqa4_hf", "gqa4_long", 1, 2},
                                         ConformanceCase{"gqa4_mistral", "gqa4"},
                                         ConformanceCase{"gqa4_mistral", "gqa4_long"},
                                         ConformanceCase{"wide_hf_sharded", "wide"},
                                         ConformanceCase{"wide_hf_sharded", "wide", 1, 2},
                                         ConformanceCase{"wide_hf_sharded", "wide_long"},
                                         ConformanceCase{"wide_hf_bf16", "wide_bf16"},
                                         ConformanceCase{"wide_mistral_bf16", "wide_bf16"}),
                         CaseName);

class Bf16LogitsTest : public testing::TestWithParam<ConformanceCase> {};

// Rounding makes bfloat16 results differ from any other implementation's. The yardstick is how far
// the reference's own bfloat16 run is from its float32 run of the same weights: it rounds the
// residual stream, norms and softmax too, which the product keeps in float.
TEST_P(Bf16LogitsTest, AreNoFartherFromFloat32ThanTheReferences) {
  const absl::StatusOr<Golden> golden = LoadGolden(GetParam().golden);
  ASSERT_TRUE(golden.ok()) << golden.status();
  ASSERT_EQ(golden->logits_bf16.size(), golden->logits.size());
  const absl::StatusOr<std::vector<float>> logits =
      ProductLogits(GetParam(), *golden, DType::kBf16);
  ASSERT_TRUE(logits.ok()) << logits.status();
  ASSERT_EQ(logits->size(), golden->logits.size());
  const double ours = RmsDifference(*logits, golden->logits);
  const double reference = RmsDifference(golden->logits_bf16, golden->logits);
  std::printf("RMS difference from float32: ours %.4f, the reference's %.4f\n", ours, reference);
  EXPECT_LE(ours, reference);
}

INSTANTIATE_TEST_SUITE_P(Conformance, Bf16LogitsTest,
                         testing::Values(ConformanceCase{"wide_hf_bf16", "wide_bf16"},
                                         ConformanceCase{"wide_hf_bf16", "wide_bf16", 1, 2},
                                         ConformanceCase{"wide_mistral_bf16", "wide_bf16"}),
                         CaseName);

}  // namespace
}  // namespace bora

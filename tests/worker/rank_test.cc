// What a rank does when things go wrong: plans and limits that break the rules, peers that go away,
// numbers that are not finite.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstdio>
#include <limits>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "absl/time/time.h"
#include "base/check.h"
#include "base/clock.h"
#include "kernels/cpu/cpu_device.h"
#include "model/checkpoint/dummy_weights.h"
#include "tests/base/sanitizers.h"
#include "tests/worker/local_group.h"
#include "tests/worker/plan_builder.h"
#include "tests/worker/tiny_model.h"
#include "tests/worker/workload.h"
#include "worker/cpu/cpu_rank.h"
#include "worker/weights/host_weights.h"

namespace bora {
namespace {

using ::testing::HasSubstr;

constexpr uint64_t kSeed = 11;

constexpr int kSlowdown = kSanitized ? 20 : 1;

std::unique_ptr<LocalGroup> StartGroup(int tp_size, int pp_size) {
  LocalGroupOptions options;
  options.tp_size = tp_size;
  options.pp_size = pp_size;
  options.limits = TinyLimits();
  auto group = LocalGroup::Start(DummyWeights(TinyConfig(), kSeed), options);
  CHECK_OK(group.status());
  return *std::move(group);
}

// Opens slot 0 with three prompt tokens and samples.
StepPlan FirstPlan(int64_t epoch) {
  PlanBuilder builder(TinyLimits(), epoch);
  builder.Open(0, 3, {});
  builder.AddRow(0, {1, 2, 3}, {.sample = true});
  return builder.Take();
}

std::unique_ptr<CpuRank> LoadRank(CpuDevice* device, const Partition& partition, int stage) {
  const RankShape shape = ShapeOfRank(TinyConfig(), partition, stage, 0);
  auto weights = LoadHostWeights(DummyWeights(TinyConfig(), kSeed), shape, DType::kF32, *device);
  CHECK_OK(weights.status());
  return std::make_unique<CpuRank>(device, *std::move(weights), RankOptions());
}

class RankEpochTest : public testing::Test {
 protected:
  void ExpectRefused(const EpochOptions& options, const std::string& message) {
    const absl::Status status = rank_->BeginEpoch(options);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(status.message()), HasSubstr(message));
  }

  CpuDevice device_{1};
  std::unique_ptr<CpuRank> rank_ = LoadRank(&device_, {1, 1, {{0, 4}}}, 0);
  EpochOptions options_ = {.epoch = 5, .limits = TinyLimits()};
};

TEST_F(RankEpochTest, RefusesLimitsThatDoNotFit) {
  EpochOptions options = options_;
  options.limits.n_blocks = 0;
  ExpectRefused(options, "n_blocks: 0");
  options = options_;
  options.limits.vocab_size = 258;
  ExpectRefused(options, "vocab_size: 258, the model has 257");
  options = options_;
  options.limits.max_model_len = 1025;
  ExpectRefused(options, "1025");
  options = options_;
  options.link_buffer_bytes = 16;
  ExpectRefused(options, "the sampled tokens of one plan take 44 bytes");
}

TEST_F(RankEpochTest, RefusesAPlaceThatDoesNotFitTheWeights) {
  EpochOptions options = options_;
  options.pp_size = 2;
  ExpectRefused(options, "pp_size 2 does not fit weights of stage 0 with the LM head");
}

TEST_F(RankEpochTest, RefusesAGroupWithoutLinks) {
  rank_ = LoadRank(&device_, {1, 2, {{0, 2}, {2, 4}}}, 1);
  EpochOptions options = options_;
  options.pp_size = 2;
  ExpectRefused(options, "a group of 2 ranks needs a mesh");
}

TEST_F(RankEpochTest, ExecutesNothingWithoutAnEpoch) {
  EXPECT_EQ(rank_->Execute(FirstPlan(5)).status().code(), absl::StatusCode::kFailedPrecondition);
}

TEST_F(RankEpochTest, PlansOfOtherEpochsChangeNothing) {
  ASSERT_TRUE(rank_->BeginEpoch(options_).ok());
  const auto stale = rank_->Execute(FirstPlan(4));
  EXPECT_EQ(stale.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(stale.status().message()), HasSubstr("plan epoch: 4, this is epoch 5"));
  EXPECT_TRUE(rank_->Execute(FirstPlan(5)).ok());
}

TEST_F(RankEpochTest, AnInvalidPlanEndsTheEpochAndNotTheRank) {
  ASSERT_TRUE(rank_->BeginEpoch(options_).ok());
  StepPlan plan = FirstPlan(5);
  plan.tokens[1] = 257;
  EXPECT_EQ(rank_->Execute(plan).status().code(), absl::StatusCode::kInvalidArgument);
  const auto after = rank_->Execute(FirstPlan(5));
  EXPECT_EQ(after.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(after.status().message()),
              HasSubstr("epoch 5 has failed: plan tokens[1]: 257"));
  rank_->EndEpoch();
  options_.epoch = 6;
  ASSERT_TRUE(rank_->BeginEpoch(options_).ok());
  EXPECT_TRUE(rank_->Execute(FirstPlan(6)).ok());
}

// With fewer token ids than the model has rows of logits, the rows beyond are as if they were not
// there: the same draws and probabilities as if their logits were never computed.
TEST_F(RankEpochTest, RowsBeyondTheTokenIdsAreNeverDrawn) {
  constexpr int32_t kNIds = 40;  // of 257 rows
  double likely = 0;             // of the alternatives of one row, which are half of the ids
  const auto draw = [&](int64_t epoch, int32_t n_ids, const SamplingParams& sampling) {
    options_.epoch = epoch;
    options_.limits.vocab_size = n_ids;
    CHECK_OK(rank_->BeginEpoch(options_));
    PlanBuilder builder(options_.limits, epoch);
    builder.Open(0, {1, 2, 3}, 3, sampling);
    builder.AddRow(0, {1, 2, 3}, {.sample = true});
    const auto result = rank_->Execute(builder.Take());
    CHECK_OK(result.status());
    rank_->EndEpoch();
    return (*result)->sampled.at(0);
  };
  int n_beyond = 0;  // what is drawn without the limit
  for (uint64_t seed = 0; seed < 40; ++seed) {
    const SamplingParams sampling = {
        .temperature = 100, .seed = seed, .n_logprobs = kMaxLogprobs, .repetition_penalty = 1.5f};
    n_beyond += draw(100 + seed, 257, sampling).token_id >= kNIds ? 1 : 0;
    const SampledToken token = draw(200 + seed, kNIds, sampling);
    EXPECT_LT(token.token_id, kNIds);
    EXPECT_LE(token.rank, kNIds);
    likely = 0;
    for (const TokenLogprob& top : token.top) {
      EXPECT_LT(top.token_id, kNIds);
      likely += std::exp(top.logprob);
    }
  }
  EXPECT_GT(n_beyond, 20);
  EXPECT_GT(likely, 0.5);
  EXPECT_LT(likely, 1.0);
}

TEST_F(RankEpochTest, AnEmptyPlanHasAnEmptyResult) {
  ASSERT_TRUE(rank_->BeginEpoch(options_).ok());
  StepPlan plan;
  plan.epoch = 5;
  const auto result = rank_->Execute(plan);
  ASSERT_TRUE(result.ok()) << result.status();
  ASSERT_TRUE(result->has_value());
  EXPECT_EQ((*result)->step_id, 0);
  EXPECT_TRUE((*result)->sampled.empty());
}

// One number of a plan at a time set to something odd: an error or a result, never a crash.
TEST_F(RankEpochTest, MutatedPlansNeverCrash) {
  std::mt19937_64 random(kSeed);
  const int32_t odd[] = {-1, 0,  1,   2,   3,   5,   6,         39,       40,
                         96, 97, 160, 239, 240, 257, INT32_MIN, INT32_MAX};
  int n_refused = 0;
  for (int round = 0; round < 500; ++round) {
    options_.epoch = round;
    ASSERT_TRUE(rank_->BeginEpoch(options_).ok());
    PlanBuilder builder(TinyLimits(), round, random());
    builder.Open(0, 3, {.n_prompt_logprobs = 2});
    builder.Open(3, 9, {.stop_token_ids = {4, 9}});
    builder.AddRow(0, {1, 2, 3}, {.sample = true, .prompt_logprobs = true});
    builder.AddRow(3, {4, 5, 6, 7}, {});
    StepPlan first = builder.Take();
    builder.AddLastSampledRow(0, true);
    builder.AddRow(3, {8, 9, 10, 11, 12}, {.sample = true});
    StepPlan second = builder.Take();
    StepPlan& plan = random() % 2 == 0 ? first : second;
    std::vector<int32_t*> numbers;
    for (SlotOpen& open : plan.opened) {
      numbers.insert(numbers.end(), {&open.slot, &open.n_prompt_tokens, &open.n_generated_tokens,
                                     &open.sampling.top_k, &open.sampling.n_logprobs,
                                     &open.sampling.n_prompt_logprobs});
    }
    for (BlockGrant& grant : plan.grants) {
      numbers.insert(numbers.end(), {&grant.slot, &grant.block_idx, &grant.block_id});
    }
    for (StepRow& row : plan.rows) {
      numbers.insert(numbers.end(), {&row.slot, &row.position, &row.n_tokens, &row.token_begin});
    }
    for (int32_t& token : plan.tokens) numbers.push_back(&token);
    for (int32_t& token : plan.next_tokens) numbers.push_back(&token);
    *numbers[random() % numbers.size()] = odd[random() % std::size(odd)];
    const bool ok = rank_->Execute(first).ok() && rank_->Execute(second).ok();
    n_refused += ok ? 0 : 1;
    rank_->EndEpoch();
  }
  std::printf("seed %llu: %d of 500 mutated plans refused\n",
              static_cast<unsigned long long>(kSeed), n_refused);
  EXPECT_GT(n_refused, 250);
}

TEST(RankGroupTest, AnAbortEndsAWaitWithin100Ms) {
  const auto group = StartGroup(2, 2);
  const void* const weights = group->weights(3).output().data;
  // The last stage waits for activations that never come.
  group->SubmitTo(2, FirstPlan(group->epoch()));
  group->SubmitTo(3, FirstPlan(group->epoch()));
  const SteadyTime start = SteadyNow();
  group->Abort();
  // Ranks are told one after the other: the second may see the first one leave before it is told.
  for (int i = 0; i < 2; ++i) {
    EXPECT_THAT(group->WaitResult().status().code(),
                testing::AnyOf(absl::StatusCode::kAborted, absl::StatusCode::kUnavailable));
  }
  const absl::Duration took = SteadyNow() - start;
  std::printf("two ranks ended after %.1f ms\n", absl::ToDoubleMilliseconds(took));
  EXPECT_LT(took, kSlowdown * absl::Milliseconds(100));

  ASSERT_TRUE(group->NextEpoch().ok());
  EXPECT_EQ(group->weights(3).output().data, weights);
  EXPECT_TRUE(group->RunStep(FirstPlan(group->epoch())).ok());
}

TEST(RankGroupTest, ARankThatFailsEndsTheOthers) {
  const auto group = StartGroup(2, 1);
  StepPlan bad = FirstPlan(group->epoch());
  bad.rows[0].position = 1;
  group->SubmitTo(1, bad);
  EXPECT_EQ(group->WaitResult().status().code(), absl::StatusCode::kInvalidArgument);
  group->SubmitTo(0, FirstPlan(group->epoch()));
  EXPECT_EQ(group->WaitResult().status().code(), absl::StatusCode::kUnavailable);
  ASSERT_TRUE(group->NextEpoch().ok());
  EXPECT_TRUE(group->RunStep(FirstPlan(group->epoch())).ok());
}

TEST(RankGroupTest, EpochsGiveTheSameBytesWithOtherLimits) {
  const auto group = StartGroup(1, 2);
  const std::vector<WorkRequest> requests = RandomRequests(TinyLimits(), 4, kSeed);
  const auto before = RunAlone(*group, requests);
  ASSERT_TRUE(before.ok()) << before.status();
  GroupLimits limits = TinyLimits();
  limits.max_num_seqs = 2;
  limits.max_num_batched_tokens = 33;
  limits.max_model_len = 400;
  limits.block_size = 16;
  limits.n_blocks = 60;
  ASSERT_TRUE(group->NextEpoch(limits).ok());
  const auto after = RunShuffled(*group, requests, 3, kSeed);
  ASSERT_TRUE(after.ok()) << after.status();
  EXPECT_EQ(*before, *after);
}

// The first stage runs ahead on plans that do not embed an outstanding token.
TEST(RankGroupTest, TheFirstStageDoesNotWaitForTokensItDoesNotNeed) {
  const auto group = StartGroup(1, 2);
  PlanBuilder builder(TinyLimits(), group->epoch());
  builder.Open(0, 3, {});
  builder.Open(1, 4, {});
  builder.AddRow(0, {1, 2, 3}, {.sample = true});
  const StepPlan samples = builder.Take();
  builder.AddRow(1, {4, 5}, {});
  const StepPlan prefills = builder.Take();
  builder.AddLastSampledRow(0, true);
  const StepPlan needs = builder.Take();
  group->SubmitTo(0, samples);
  group->SubmitTo(0, prefills);
  group->WaitIdle(0);  // would hang if it waited for the second stage, which has no plan yet
  group->SubmitTo(0, needs);
  for (const StepPlan& plan : {samples, prefills, needs}) group->SubmitTo(1, plan);
  for (int step = 0; step < 3; ++step) {
    const auto result = group->WaitResult();
    ASSERT_TRUE(result.ok()) << result.status();
    EXPECT_EQ(result->step_id, step);
  }
}

TEST(RankGroupTest, AResultHasTheTimeOfEveryStage) {
  for (const auto& [tp_size, pp_size] : {std::pair(1, 1), {1, 2}, {1, 4}, {2, 2}}) {
    const auto group = StartGroup(tp_size, pp_size);
    PlanBuilder builder(TinyLimits(), group->epoch());
    builder.Open(0, 3, {});
    builder.AddRow(0, {1, 2, 3}, {.sample = true});
    const StepPlan works = builder.Take();
    const StepPlan empty = builder.Take();
    builder.AddLastSampledRow(0, true);
    for (const StepPlan& plan : {works, empty, builder.Take()}) {
      const auto result = group->RunStep(plan);
      ASSERT_TRUE(result.ok()) << result.status();
      ASSERT_EQ(result->stage_us.size(), static_cast<size_t>(pp_size));
      for (const int64_t us : result->stage_us) EXPECT_EQ(us > 0, !plan.rows.empty()) << us;
    }
  }
}

// Weights whose embedding of token 7 is not a number.
class PoisonedSource final : public WeightSource {
 public:
  const ModelConfig& config() const override { return weights_.config(); }
  Fingerprint fingerprint() const override { return weights_.fingerprint(); }

 private:
  absl::Status Read(TensorId id, const TensorSlice& slice, ElementSpan dst,
                    DigestSum* digest) const override {
    const auto* const floats = std::get_if<absl::Span<float>>(&dst);
    if (floats == nullptr) return absl::UnimplementedError("float only");
    absl::Status status = weights_.ReadSlice(id, slice, dst, digest);
    if (id.kind == TensorKind::kTokEmbeddings) {
      for (int64_t row = slice.row_begin; row < slice.row_end; ++row) {
        if (row == 7) (*floats)[(row - slice.row_begin) * slice.n_cols()] = std::nanf("");
      }
    }
    return status;
  }

  DummyWeights weights_{TinyConfig(), kSeed};
};

// One request's logits are NaN: it fails alone, its neighbours' bytes stay, its blocks can be used
// again, and a plan that continues it before its failure is known is executed.
TEST(RankGroupTest, ANonFiniteRowHarmsOnlyItself) {
  for (const int tp_size : {1, 2}) {
    LocalGroupOptions options;
    options.tp_size = tp_size;
    options.limits = TinyLimits();
    options.limits.n_blocks = 2;
    auto group = LocalGroup::Start(PoisonedSource(), options);
    ASSERT_TRUE(group.ok()) << group.status();
    PlanBuilder builder(options.limits, (*group)->epoch());
    builder.Open(0, 3, {});
    builder.Open(1, 2, {});
    builder.AddRow(0, {1, 7, 3}, {.sample = true});
    builder.AddRow(1, {4, 5}, {.sample = true});
    const auto mixed = (*group)->RunStep(builder.Take());
    ASSERT_TRUE(mixed.ok()) << mixed.status();
    EXPECT_TRUE(mixed->sampled[0].non_finite);
    EXPECT_EQ(mixed->sampled[0].token_id, -1);
    EXPECT_FALSE(mixed->sampled[1].non_finite);

    builder.AddLastSampledRow(0, true);
    builder.AddLastSampledRow(1, true);
    const auto next = (*group)->RunStep(builder.Take());
    ASSERT_TRUE(next.ok()) << next.status();
    EXPECT_TRUE(next->sampled[0].non_finite);
    EXPECT_FALSE(next->sampled[1].non_finite);

    // Slot 2 gets the block that is full of NaN and does what slot 1 did.
    builder.Close(0);
    builder.Open(2, 2, {});
    builder.AddRow(2, {4, 5}, {.sample = true});
    auto again = (*group)->RunStep(builder.Take());
    ASSERT_TRUE(again.ok()) << again.status();
    again->sampled[0].slot = 1;
    EXPECT_EQ(again->sampled[0], mixed->sampled[1]);
  }
}

}  // namespace
}  // namespace bora

// What must hold whatever happens to the scheduler: every plan is valid, nothing is lost, everybody
// gets on; and what a plan costs.
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <deque>
#include <map>
#include <random>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "coordinator/scheduler/scheduler.h"
#include "tests/coordinator/scripted_group.h"
#include "tests/coordinator/transcript.h"

namespace bora {
namespace {

struct RandomCase {
  int32_t n_stages;
  GroupLimits limits;
  bool run_ahead = true;
};

// Applies random operations and checks everything that a plan or a result may break.
class RandomLife {
 public:
  RandomLife(const RandomCase& config, uint64_t seed)
      : config_(config),
        random_(seed),
        scheduler_({.limits = config.limits,
                    .epoch = 1,
                    .n_stages = config.n_stages,
                    .run_ahead = config.run_ahead}),
        group_(config.limits,
               [](const SamplingParams& sampling, int32_t position) {
                 return SampledToken{.token_id = TokenOf(sampling.seed, position)};
               }),
        block_prefixes_(config.limits.n_blocks) {}

  void RunOperations(int n_operations) {
    for (int i = 0; i < n_operations && !testing::Test::HasFatalFailure(); ++i) {
      switch (random_() % 16) {
        case 0:
        case 1:
          Add();
          break;
        case 2:
          if (!sequences_.empty()) Remove(Pick());
          break;
        case 3:
        case 4:
          if (!sequences_.empty()) ToggleHold(Pick());
          break;
        default:
          if (random_() % 2 == 0) {
            Plan();
          } else if (!in_flight_.empty()) {
            Complete();
          }
      }
    }
  }

  // Lets everybody go on: each must end by itself, since each plan takes somebody further.
  void RunToTheEnd() {
    for (auto& [handle, sequence] : sequences_) {
      if (sequence.held) ToggleHold(handle);
    }
    int64_t n_steps_max = 1;
    for (const auto& [handle, sequence] : sequences_) {
      n_steps_max += sequence.n_prompt + sequence.max_tokens;
    }
    for (int64_t step = 0; step < n_steps_max * (config_.n_stages + 1); ++step) {
      while (Plan()) {
      }
      if (in_flight_.empty()) break;
      Complete();
    }
    ASSERT_TRUE(sequences_.empty()) << sequences_.size() << " sequences do not end";
  }

  // Every slot can be opened again and every block promised.
  void ExpectNothingLost() {
    EXPECT_EQ(scheduler_.n_running(), 0);
    EXPECT_EQ(scheduler_.n_waiting(), 0);
    EXPECT_EQ(scheduler_.n_waiting_prompt_tokens(), 0);
    EXPECT_EQ(scheduler_.n_in_flight(), 0);
    EXPECT_EQ(scheduler_.blocks().n_held(), 0);
    EXPECT_EQ(scheduler_.blocks().n_available(), config_.limits.n_blocks);
    std::set<int32_t> slots;
    for (int32_t i = 0; i < config_.limits.max_num_seqs; ++i) AddSequence(1, 1);
    while (static_cast<int32_t>(slots.size()) < config_.limits.max_num_seqs) {
      const std::optional<StepPlan> plan = scheduler_.PlanStep();
      ASSERT_TRUE(plan.has_value());
      for (const SlotOpen& open : plan->opened) slots.insert(open.slot);
      // They keep their slots, and have all the tokens that they asked for.
      for (const Admission& admission : scheduler_.newly_admitted()) {
        scheduler_.SetHeld(admission.handle, true);
      }
      auto result = group_.Execute(*plan);
      ASSERT_TRUE(result.ok()) << result.status();
      ASSERT_TRUE(scheduler_.CompleteStep(*std::move(result)).ok());
    }
  }

  int64_t n_steps() const { return n_steps_; }
  int64_t n_cached_tokens() const { return n_cached_tokens_; }
  int64_t n_preemptions() const { return scheduler_.n_preemptions(); }

 private:
  struct Sequence {
    uint64_t family = 0;
    int32_t n_prompt = 0;
    int32_t max_tokens = 0;
    int32_t n_sampled = 0;
    int32_t n_prompt_logprobs = 0;
    bool held = false;
  };

  // Token `position` of every sequence of a family, given or sampled, so that many begin alike and
  // what any block must hold is known.
  static int32_t TokenOf(uint64_t family, int32_t position) {
    return static_cast<int32_t>((family * 2654435761u + static_cast<uint32_t>(position) * 40503u) >>
                                7) &
           7;
  }

  int32_t Below(int32_t n) { return static_cast<int32_t>(random_() % n); }

  uint64_t Pick() {
    return std::next(sequences_.begin(), Below(static_cast<int32_t>(sequences_.size())))->first;
  }

  void AddSequence(int32_t n_prompt, int32_t max_tokens) {
    SequenceSpec spec;
    spec.handle = next_handle_++;
    spec.sampling.seed = Below(3);
    std::vector<int32_t> prompt;
    for (int32_t i = 0; i < n_prompt; ++i) prompt.push_back(TokenOf(spec.sampling.seed, i));
    spec.prompt_tokens = std::move(prompt);
    spec.max_tokens = max_tokens;
    spec.sampling.n_prompt_logprobs = Below(4) == 0 ? 2 : -1;
    spec.prefix_cache = Below(8) != 0;
    spec.priority = static_cast<Priority>(Below(3));
    spec.tenant = std::string(1, static_cast<char>('a' + Below(3)));
    spec.arrival_us = now_us_ += Below(2'000'000);
    sequences_[spec.handle] = {spec.sampling.seed, n_prompt, max_tokens};
    scheduler_.Add(std::move(spec));
  }

  void Add() {
    const int32_t max_len =
        std::min(config_.limits.max_model_len, config_.limits.n_blocks * config_.limits.block_size);
    const int32_t n_prompt = 1 + Below(Below(2) == 0 ? 4 : max_len - 1);
    AddSequence(n_prompt, 1 + Below(std::min(Below(2) == 0 ? 8 : 64, max_len - n_prompt)));
  }

  void Remove(uint64_t handle) {
    scheduler_.Remove(handle);
    sequences_.erase(handle);
  }

  // Only what runs or ran can have a slow reader.
  void ToggleHold(uint64_t handle) {
    Sequence& sequence = sequences_.at(handle);
    if (!scheduler_.IsRunning(handle) && !sequence.held && sequence.n_sampled == 0) return;
    sequence.held = !sequence.held;
    scheduler_.SetHeld(handle, sequence.held);
  }

  bool Plan() {
    scheduler_.AdvanceTo(now_us_ += Below(200'000));
    const std::optional<StepPlan> plan = scheduler_.PlanStep();
    if (!plan.has_value()) return false;
    ++n_steps_;
    size_t next_admitted = 0;
    for (const SlotOpen& open : plan->opened) {
      const Admission& admission = scheduler_.newly_admitted().at(next_admitted++);
      handle_of_slot_[open.slot] = admission.handle;
      n_cached_tokens_ += admission.n_cached_tokens;
    }
    CheckBlocks(*plan);
    for (const StepRow& row : plan->rows) {
      const auto it = sequences_.find(handle_of_slot_.at(row.slot));
      EXPECT_TRUE(it != sequences_.end() && !it->second.held) << PlanText(*plan);
    }
    absl::StatusOr<StepResult> result = group_.Execute(*plan);
    EXPECT_TRUE(result.ok()) << result.status() << ": " << PlanText(*plan);
    in_flight_.push_back(result.ok() ? *std::move(result) : StepResult());
    return result.ok();
  }

  // A shared block holds what its new reader's tokens are: a family's blocks differ from another's,
  // and one place's from another's.
  void CheckBlocks(const StepPlan& plan) {
    const int32_t block_size = config_.limits.block_size;
    std::map<int32_t, int32_t> n_cached;
    for (const SlotOpen& open : plan.opened) n_cached[open.slot] = open.n_cached_tokens;
    for (const BlockGrant& grant : plan.grants) {
      const auto it = sequences_.find(handle_of_slot_.at(grant.slot));
      ASSERT_TRUE(it != sequences_.end()) << PlanText(plan);
      const Prefix prefix = {it->second.family, grant.block_idx};
      if (grant.block_idx < n_cached[grant.slot] / block_size) {
        EXPECT_EQ(block_prefixes_[grant.block_id], prefix) << PlanText(plan);
      } else {
        block_prefixes_[grant.block_id] = prefix;
      }
    }
  }

  void Complete() {
    auto progress = scheduler_.CompleteStep(std::move(in_flight_.front()));
    in_flight_.pop_front();
    ASSERT_TRUE(progress.ok()) << progress.status();
    for (const SequenceProgress& item : *progress) {
      Sequence& sequence = sequences_.at(item.handle);
      for (const SampledToken& token : item.prompt_logprobs) {
        EXPECT_EQ(token.position, ++sequence.n_prompt_logprobs);
      }
      if (!item.sampled.has_value()) continue;
      EXPECT_EQ(item.sampled->position, sequence.n_prompt + sequence.n_sampled);
      EXPECT_EQ(item.sampled->token_id, TokenOf(sequence.family, item.sampled->position));
      if (++sequence.n_sampled == sequence.max_tokens) Remove(item.handle);
    }
  }

  const RandomCase config_;
  std::mt19937_64 random_;
  Scheduler scheduler_;
  ScriptedGroup group_;
  std::map<uint64_t, Sequence> sequences_;
  std::map<int32_t, uint64_t> handle_of_slot_;
  std::deque<StepResult> in_flight_;
  // What a block was last granted for: whose tokens, at which place.
  using Prefix = std::pair<uint64_t, int32_t>;
  std::vector<Prefix> block_prefixes_;  // [n_blocks]
  uint64_t next_handle_ = 1;
  int64_t now_us_ = 0;
  int64_t n_steps_ = 0;
  int64_t n_cached_tokens_ = 0;
};

class SchedulerRandomTest : public testing::TestWithParam<RandomCase> {};

TEST_P(SchedulerRandomTest, PlansAreValidAndNothingIsLost) {
  constexpr int kOperations = 10000;
  for (const uint64_t seed : {1, 2, 3}) {
    RandomLife life(GetParam(), seed);
    life.RunOperations(kOperations);
    life.RunToTheEnd();
    life.ExpectNothingLost();
    std::printf("seed %d: %d operations, %lld steps, %lld cached tokens, %lld preemptions\n",
                static_cast<int>(seed), kOperations, static_cast<long long>(life.n_steps()),
                static_cast<long long>(life.n_cached_tokens()),
                static_cast<long long>(life.n_preemptions()));
    EXPECT_GT(life.n_cached_tokens(), 0);
    ASSERT_FALSE(HasFailure()) << "seed " << seed;
  }
}

INSTANTIATE_TEST_SUITE_P(Shapes, SchedulerRandomTest,
                         testing::Values(
                             // Tokens are short.
                             RandomCase{1, {8, 6, 64, 4, 256, 10}},
                             // Blocks are short: three of the longest.
                             RandomCase{2, {8, 32, 64, 4, 48, 10}},
                             // Blocks are very short: somebody is preempted all the time.
                             RandomCase{5, {12, 24, 64, 4, 24, 10}},
                             // Slots are short, one block is two tokens.
                             RandomCase{4, {3, 16, 32, 2, 48, 10}},
                             // Every row goes on from a known token.
                             RandomCase{6, {8, 24, 64, 4, 40, 10}, false},
                             // Plenty of everything.
                             RandomCase{3, {16, 64, 128, 16, 128, 10}}),
                         [](const auto& info) {
                           return "Stages" + std::to_string(info.param.n_stages);
                         });

// Mean time of a decode step's plan with 256 sequences of this many tokens.
double PlanMicroseconds(int32_t n_prompt) {
  constexpr int kSequences = 256;
  constexpr int kSteps = 200;
  // Those that are through with their prompts decode while others are not: 8 plans for 2^23 tokens.
  constexpr int kMaxTokens = kSteps + 16;
  GroupLimits limits;
  limits.max_num_seqs = kSequences;
  limits.max_num_batched_tokens = kMaxNumBatchedTokens;
  limits.max_model_len = n_prompt + kMaxTokens;
  limits.block_size = 16;
  limits.n_blocks = kSequences * (limits.max_model_len / 16 + 1);
  limits.vocab_size = 1000;
  Scheduler scheduler({.limits = limits, .epoch = 1, .n_stages = 1});
  ScriptedGroup group(limits,
                      [](const SamplingParams&, int32_t) { return SampledToken{.token_id = 0}; });
  for (uint64_t handle = 1; handle <= kSequences; ++handle) {
    SequenceSpec spec;
    spec.handle = handle;
    spec.prompt_tokens = std::vector<int32_t>(n_prompt, 1);
    spec.max_tokens = kMaxTokens;
    scheduler.Add(std::move(spec));
  }
  std::chrono::duration<double, std::micro> elapsed{};
  for (int n_timed = 0; n_timed < kSteps;) {
    const auto begin = std::chrono::steady_clock::now();
    const std::optional<StepPlan> plan = scheduler.PlanStep();
    const auto end = std::chrono::steady_clock::now();
    if (!plan.has_value()) break;
    if (plan->tokens.empty()) {
      EXPECT_EQ(plan->rows.size(), static_cast<size_t>(kSequences));
      elapsed += end - begin;
      ++n_timed;
    }
    auto result = group.Execute(*plan);
    EXPECT_TRUE(result.ok()) << result.status();
    EXPECT_TRUE(scheduler.CompleteStep(*std::move(result)).ok());
    if (testing::Test::HasFailure()) break;
  }
  return elapsed.count() / kSteps;
}

// A step of a model takes milliseconds: planning it must not. The bound is 20 times what one busy
// core of a small machine needs.
TEST(SchedulerCostTest, PlansADecodeStepOfLongSequencesInMicroseconds) {
  constexpr double kMaxMicroseconds = 2000;
  const double short_us = PlanMicroseconds(64);
  const double long_us = PlanMicroseconds(32 * 1024);
  std::printf("plan of 256 decode rows: %.1f us at 64 tokens, %.1f us at 32768 tokens\n", short_us,
              long_us);
  EXPECT_LT(long_us, kMaxMicroseconds);
}

}  // namespace
}  // namespace bora

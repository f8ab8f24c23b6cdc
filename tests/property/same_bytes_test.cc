// Same request, same bytes: the real scheduler drives real ranks, and every request's tokens and
// log-probabilities are bit for bit those of the request alone, whatever else is served with it,
// how its prompt is cut, when the others come, go or pause, which slots and blocks it gets, whether
// others have computed its beginning, how often it loses its blocks, and over how many ranks the
// model is divided.
#include "tests/property/same_bytes.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <deque>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/int_math.h"
#include "base/status_macros.h"
#include "coordinator/scheduler/scheduler.h"
#include "model/checkpoint/dummy_weights.h"
#include "tests/base/sanitizers.h"
#include "tests/worker/local_group.h"
#include "tests/worker/tiny_model.h"
#include "tests/worker/workload.h"

namespace bora {
namespace {

constexpr int kMixDivisor = kSanitized ? 10 : 1;

constexpr uint64_t kSeed = 7;
// Behind the pool's requests: of a fifth of them, the same prompt with the seeds of further
// candidates.
constexpr int kRequestsPerFork = 5;
constexpr int kFurtherCandidates = 3;
constexpr size_t kMaxPromptTokens = 80;

// One request of a mix.
struct MixRequest {
  int pool_idx = 0;
  int arrival_round = 0;
  int n_tokens_until_cancel = -1;  // -1: it is not cancelled; 0: as soon as it has come
  uint64_t hold_one_in = 0;        // rounds in which its reader turns slow, 0: never
  bool prefix_cache = true;
  int candidate_of = -1;  // comes with the first token of this request of the mix
  Priority priority = Priority::kStandard;
  std::string tenant;
};

// All that a mix is; printed when it fails.
struct Mix {
  uint64_t seed = 0;
  GroupLimits limits;
  int32_t n_stages = 1;  // that the plans are made for
  bool run_ahead = true;
  std::vector<MixRequest> requests;  // in order of arrival
};

std::string ToString(const Mix& mix) {
  std::string text =
      absl::StrCat("mix of seed ", mix.seed, ": ", mix.limits.max_num_seqs, " slots, ",
                   mix.limits.max_num_batched_tokens, " tokens a plan, ", mix.limits.n_blocks,
                   " blocks of ", mix.limits.block_size, ", ", mix.n_stages, " stages",
                   mix.run_ahead ? ", run ahead" : "", "\n");
  for (const MixRequest& request : mix.requests) {
    absl::StrAppend(&text, "  request ", request.pool_idx, " in round ", request.arrival_round,
                    ", cancelled after ", request.n_tokens_until_cancel, ", held one in ",
                    request.hold_one_in, request.prefix_cache ? "" : ", without prefix cache");
    if (request.candidate_of >= 0) absl::StrAppend(&text, ", candidate of ", request.candidate_of);
    absl::StrAppend(&text, ", class ", static_cast<int>(request.priority), ", tenant ",
                    request.tenant, "\n");
  }
  return text;
}

// Of the pool's requests, the one with further candidates.
int ForkedIdx(int fork) { return fork * kRequestsPerFork; }

Mix RandomMix(const std::vector<WorkRequest>& pool, uint64_t seed) {
  std::mt19937_64 random(seed);
  const auto below = [&random](uint64_t n) { return static_cast<int32_t>(random() % n); };
  Mix mix;
  mix.seed = seed;
  mix.limits = TinyLimits();
  mix.limits.max_num_seqs = 1 + below(12);
  mix.limits.max_num_batched_tokens = 1 + below(below(2) == 0 ? 8 : 64);
  mix.limits.block_size = 2 << below(4);
  mix.n_stages = 1 + below(4);
  mix.run_ahead = below(4) != 0;
  const int n_requests = 1 + below(12);
  int round = 0;
  for (int i = 0; i < n_requests; ++i) {
    MixRequest& request = mix.requests.emplace_back();
    request.priority = static_cast<Priority>(below(3));
    request.tenant = std::string(1, static_cast<char>('a' + below(3)));
    // Neighbours in the pool begin alike.
    request.pool_idx = below(2) == 0 ? below(kSameBytesPool)
                                     : mix.requests[below(mix.requests.size())].pool_idx ^ below(4);
    request.pool_idx %= kSameBytesPool;
    request.prefix_cache = below(8) != 0;
    round += below(3) == 0 ? below(10) : 0;
    request.arrival_round = round;
    if (below(5) == 0) request.n_tokens_until_cancel = below(6);
    if (below(4) == 0) request.hold_one_in = 2 + below(6);
    if (below(8) != 0) continue;
    // Further candidates of a prompt.
    const int fork = below(kSameBytesPool / kRequestsPerFork);
    request.pool_idx = ForkedIdx(fork);
    request.n_tokens_until_cancel = -1;
    const int leader = static_cast<int>(mix.requests.size()) - 1;
    const MixRequest leading = request;
    for (int k = 0; k < kFurtherCandidates; ++k) {
      MixRequest& further = mix.requests.emplace_back(leading);
      further.pool_idx = kSameBytesPool + fork * kFurtherCandidates + k;
      further.candidate_of = leader;
    }
  }
  int64_t n_blocks_min = 1;
  int64_t n_blocks_of_all = 0;
  for (const MixRequest& request : mix.requests) {
    const WorkRequest& work = pool[request.pool_idx];
    const int64_t n_blocks =
        CeilDiv(static_cast<int64_t>(work.prompt.size()) + work.n_generate, mix.limits.block_size);
    n_blocks_min = std::max(n_blocks_min, n_blocks);
    n_blocks_of_all += n_blocks;
  }
  // From just enough for the longest to enough for all.
  mix.limits.n_blocks =
      static_cast<int32_t>(n_blocks_min + random() % (n_blocks_of_all - n_blocks_min + 1));
  return mix;
}

// Runs a mix as the engine does: plans while there are lanes, takes results in order.
class MixRun {
 public:
  MixRun(LocalGroup& group, const Mix& mix, const std::vector<WorkRequest>& pool)
      : group_(group),
        mix_(mix),
        pool_(pool),
        random_(mix.seed + 1),
        scheduler_({.limits = mix.limits,
                    .epoch = group.epoch(),
                    .n_stages = mix.n_stages,
                    .run_ahead = mix.run_ahead}),
        outcomes_(mix.requests.size()) {}

  // What each request had when it ended or was cancelled.
  absl::StatusOr<std::vector<WorkOutcome>> Run() {
    for (int round = 0; next_request_ < mix_.requests.size() || n_open_ > 0; ++round) {
      if (round > 100000) return absl::InternalError("the mix does not end");
      while (next_request_ < mix_.requests.size() &&
             mix_.requests[next_request_].arrival_round <= round) {
        if (mix_.requests[next_request_].candidate_of < 0) Add(next_request_);
        ++next_request_;
      }
      HoldSome();
      // Not always all that is possible.
      while (random_() % 8 != 0) {
        const std::optional<StepPlan> plan = scheduler_.PlanStep();
        if (!plan.has_value()) break;
        for (const Admission& admission : scheduler_.newly_admitted()) {
          n_cached_tokens_ += admission.n_cached_tokens;
        }
        group_.Submit(*plan);
        ++n_steps_;
      }
      if (scheduler_.n_in_flight() > 0) RETURN_IF_ERROR(Complete());
    }
    while (scheduler_.n_in_flight() > 0) RETURN_IF_ERROR(Complete());
    if (scheduler_.blocks().n_held() != 0) return absl::InternalError("blocks are lost");
    return outcomes_;
  }

  int64_t n_steps() const { return n_steps_; }
  int64_t n_cached_tokens() const { return n_cached_tokens_; }
  int64_t n_preemptions() const { return scheduler_.n_preemptions(); }
  int64_t n_further_candidates() const { return n_further_candidates_; }

 private:
  void Add(size_t idx) {
    const WorkRequest& work = pool_[mix_.requests[idx].pool_idx];
    SequenceSpec spec;
    spec.handle = idx + 1;
    spec.prompt_tokens = work.prompt;
    spec.sampling = work.sampling;
    spec.max_tokens = work.n_generate;
    spec.prefix_cache = mix_.requests[idx].prefix_cache;
    spec.priority = mix_.requests[idx].priority;
    spec.tenant = mix_.requests[idx].tenant;
    spec.arrival_us = int64_t{mix_.requests[idx].arrival_round} * 1'000'000;
    scheduler_.Add(std::move(spec));
    ++n_open_;
    if (mix_.requests[idx].n_tokens_until_cancel == 0) Remove(idx);
  }

  void Remove(size_t idx) {
    scheduler_.Remove(idx + 1);
    --n_open_;
  }

  void HoldSome() {
    for (size_t idx = 0; idx < next_request_; ++idx) {
      const uint64_t one_in = mix_.requests[idx].hold_one_in;
      if (one_in == 0) continue;
      scheduler_.SetHeld(idx + 1, random_() % one_in == 0);
    }
  }

  absl::Status Complete() {
    ASSIGN_OR_RETURN(StepResult result, group_.WaitResult());
    ASSIGN_OR_RETURN(std::vector<SequenceProgress> progress,
                     scheduler_.CompleteStep(std::move(result)));
    for (SequenceProgress& item : progress) {
      const size_t idx = item.handle - 1;
      WorkOutcome& outcome = outcomes_[idx];
      for (SampledToken& token : item.prompt_logprobs) {
        token.slot = 0;
        outcome.prompt_logprobs.push_back(std::move(token));
      }
      if (!item.sampled.has_value()) continue;
      item.sampled->slot = 0;
      outcome.sampled.push_back(std::move(*item.sampled));
      const int n_sampled = static_cast<int>(outcome.sampled.size());
      for (size_t i = idx + 1; n_sampled == 1 && i < mix_.requests.size() &&
                               mix_.requests[i].candidate_of == static_cast<int>(idx);
           ++i) {
        Add(i);
        ++n_further_candidates_;
      }
      if (n_sampled == pool_[mix_.requests[idx].pool_idx].n_generate ||
          n_sampled == mix_.requests[idx].n_tokens_until_cancel) {
        Remove(idx);
      }
    }
    return absl::OkStatus();
  }

  LocalGroup& group_;
  const Mix& mix_;
  const std::vector<WorkRequest>& pool_;
  std::mt19937_64 random_;
  Scheduler scheduler_;
  std::vector<WorkOutcome> outcomes_;
  size_t next_request_ = 0;
  int n_open_ = 0;
  int64_t n_steps_ = 0;
  int64_t n_cached_tokens_ = 0;
  int64_t n_further_candidates_ = 0;
};

template <typename T>
bool IsPrefix(const std::vector<T>& part, const std::vector<T>& whole) {
  return part.size() <= whole.size() && std::equal(part.begin(), part.end(), whole.begin());
}

// Equal, or for a cancelled request the beginning. Floats are equal only when their bits are, but
// for the sign of a zero.
void ExpectSameBytes(const Mix& mix, const std::vector<WorkOutcome>& outcomes,
                     const std::vector<WorkOutcome>& alone) {
  for (size_t i = 0; i < mix.requests.size(); ++i) {
    const WorkOutcome& expected = alone[mix.requests[i].pool_idx];
    const bool whole = outcomes[i].sampled.size() == expected.sampled.size();
    if (mix.requests[i].n_tokens_until_cancel < 0) {
      EXPECT_TRUE(whole) << "request " << i << " is not complete";
    }
    EXPECT_TRUE(IsPrefix(outcomes[i].sampled, expected.sampled)) << "tokens of request " << i;
    EXPECT_TRUE(IsPrefix(outcomes[i].prompt_logprobs, expected.prompt_logprobs))
        << "prompt log-probabilities of request " << i;
    if (whole) {
      EXPECT_EQ(outcomes[i].prompt_logprobs.size(), expected.prompt_logprobs.size());
    }
  }
}

class SameBytesTest : public testing::TestWithParam<SameBytesLayout> {};

// Requests of which neighbours begin alike, for some length.
std::vector<WorkRequest> MakePool() {
  std::vector<WorkRequest> pool = RandomRequests(TinyLimits(), kSameBytesPool, kSeed);
  for (size_t i = 0; i < pool.size(); ++i) {
    std::vector<int32_t>& prompt = pool[i].prompt;
    prompt.resize(std::min(prompt.size(), kMaxPromptTokens));
    const std::vector<int32_t>& like = pool[i / 4 * 4].prompt;
    const size_t n = std::min(prompt.size(), like.size()) * (i % 4) / 3;
    std::copy_n(like.begin(), n, prompt.begin());
    // Those that grow long under way are the ones that run out of blocks.
    if (i % 3 == 0) pool[i].n_generate += 40;
  }
  for (int fork = 0; fork < kSameBytesPool / kRequestsPerFork; ++fork) {
    for (int k = 1; k <= kFurtherCandidates; ++k) {
      WorkRequest further = pool[ForkedIdx(fork)];
      further.sampling.seed += k;
      further.sampling.n_prompt_logprobs = -1;
      pool.push_back(std::move(further));
    }
  }
  return pool;
}

TEST_P(SameBytesTest, BatchedChunkedCachedPreemptedCancelledEqualsAloneOnOneRank) {
  const SameBytesLayout layout = GetParam();
  const std::vector<WorkRequest> pool = MakePool();
  const DummyWeights weights(TinyConfig(), kSeed);
  auto one_rank = LocalGroup::Start(weights, GroupOf({"", 1, 1, layout.format, 0}));
  if (absl::IsUnavailable(one_rank.status())) GTEST_SKIP() << one_rank.status();  // no GPU
  ASSERT_TRUE(one_rank.ok()) << one_rank.status();
  const auto alone = RunAlone(**one_rank, pool);
  ASSERT_TRUE(alone.ok()) << alone.status();
  auto started = LocalGroup::Start(weights, GroupOf(layout));
  ASSERT_TRUE(started.ok()) << started.status();
  LocalGroup& group = **started;
  const auto begin = std::chrono::steady_clock::now();
  const int n_mixes = layout.n_mixes / kMixDivisor;
  int64_t n_requests = 0;
  int64_t n_steps = 0, n_cached_tokens = 0, n_preemptions = 0, n_further = 0;
  for (int i = 0; i < n_mixes; ++i) {
    const Mix mix = RandomMix(pool, kSeed * 1000 + i);
    const absl::Status next = group.NextEpoch(mix.limits);
    ASSERT_TRUE(next.ok()) << next << "\n" << ToString(mix);
    MixRun run(group, mix, pool);
    const auto outcomes = run.Run();
    ASSERT_TRUE(outcomes.ok()) << outcomes.status() << "\n" << ToString(mix);
    ExpectSameBytes(mix, *outcomes, *alone);
    ASSERT_FALSE(HasFailure()) << ToString(mix);
    n_requests += static_cast<int64_t>(mix.requests.size());
    n_steps += run.n_steps();
    n_cached_tokens += run.n_cached_tokens();
    n_preemptions += run.n_preemptions();
    n_further += run.n_further_candidates();
  }
  EXPECT_GT(n_cached_tokens, n_mixes);
  EXPECT_GT(n_further, 0);
  if (n_mixes >= 15) {  // A sanitizer's few mixes may need no preemption.
    EXPECT_GT(n_preemptions, n_mixes / 10);
  }
  const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - begin;
  std::printf(
      "seeds %d to %d: %d mixes, %d requests, %d of them further candidates, %d steps, %d cached "
      "tokens, %d preemptions, %.1f s\n",
      static_cast<int>(kSeed * 1000), static_cast<int>(kSeed * 1000) + n_mixes - 1, n_mixes,
      static_cast<int>(n_requests), static_cast<int>(n_further), static_cast<int>(n_steps),
      static_cast<int>(n_cached_tokens), static_cast<int>(n_preemptions), elapsed.count());
}

// Up to sixty-four long requests in room for two of the longest: they take blocks from each other
// all the time, and all end with the bytes that each has alone.
TEST(PreemptionTest, ManyLongRequestsInRoomForTwoAllEndAsAlone) {
  const SameBytesLayout layout = {"", 1, 1, WeightFormat::kBf16, 0};
  const std::vector<WorkRequest> pool = MakePool();
  auto group = LocalGroup::Start(DummyWeights(TinyConfig(), kSeed), GroupOf(layout));
  if (absl::IsUnavailable(group.status())) GTEST_SKIP() << group.status();
  ASSERT_TRUE(group.ok()) << group.status();
  const auto alone = RunAlone(**group, pool);
  ASSERT_TRUE(alone.ok()) << alone.status();
  Mix mix;
  mix.limits = TinyLimits();
  mix.limits.max_num_seqs = 16;
  int64_t n_blocks = 0;
  for (int i = 0; i < std::min(64, kSameBytesPool); ++i) {
    MixRequest& request = mix.requests.emplace_back();
    request.pool_idx = i;
    request.prefix_cache = i % 2 == 0;
    n_blocks =
        std::max(n_blocks, CeilDiv(static_cast<int64_t>(pool[i].prompt.size()) + pool[i].n_generate,
                                   mix.limits.block_size));
  }
  mix.limits.n_blocks = static_cast<int32_t>(2 * n_blocks);
  ASSERT_TRUE((*group)->NextEpoch(mix.limits).ok());
  MixRun run(**group, mix, pool);
  const auto outcomes = run.Run();
  ASSERT_TRUE(outcomes.ok()) << outcomes.status();
  ExpectSameBytes(mix, *outcomes, *alone);
  EXPECT_GT(run.n_preemptions(), 0);
  std::printf("%d preemptions, %d steps\n", static_cast<int>(run.n_preemptions()),
              static_cast<int>(run.n_steps()));
}

INSTANTIATE_TEST_SUITE_P(Layouts, SameBytesTest, testing::ValuesIn(SameBytesLayouts()),
                         [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace bora

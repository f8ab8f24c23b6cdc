// The engine with its own thread, scheduler, cluster and text, and a group that answers from a
// script: requests in every state, and every way to end.
#include "coordinator/engine/engine.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <memory>
#include <numeric>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <variant>
#include <vector>

#include "base/clock.h"
#include "tests/coordinator/engine_testing.h"

namespace bora {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

TEST_F(EngineTest, RefusesRequestsUntilThereIsAGroup) {
  Make(TestEngineOptions());
  const ApiError error = ExpectRefused(Spec(0, 1));
  EXPECT_EQ(error.code, absl::StatusCode::kUnavailable);
  EXPECT_EQ(error.reason, reason::kNotReady);
  EXPECT_TRUE(error.retry_delay.has_value());
  EXPECT_THAT(error.message, HasSubstr("0 of 1 workers attached"));
  Attach();
  AwaitServing(true);
  ExpectIdle();
}

TEST_F(EngineTest, StreamsUntilMaxTokens) {
  Serve();
  RequestSpec spec = Spec(0, 5);
  spec.sampling.n_prompt_logprobs = 0;
  const Submitted request = Submit(spec);
  const FinishInfo finish = request.observer->finish();
  EXPECT_EQ(finish.kind, FinishKind::kMaxTokens);
  EXPECT_EQ(finish.n_prompt_tokens, kPromptTokens);
  EXPECT_EQ(finish.n_output_tokens, 5);
  EXPECT_EQ(finish.seed, 0u);
  EXPECT_GE(finish.timing.queue, absl::ZeroDuration());
  EXPECT_GE(finish.timing.first_token, finish.timing.queue);
  EXPECT_EQ(request.observer->text(), "abcab");
  EXPECT_THAT(request.observer->token_ids(), ElementsAre(kA, kB, kC, kA, kB));
  EXPECT_EQ(request.observer->n_prompt_logprobs(), kPromptTokens - 1);
  ExpectIdle();
}

TEST_F(EngineTest, SaysWhenTheContextIsFull) {
  Serve();
  RequestSpec spec = Spec(0, 61);
  spec.context_limited = true;
  const Submitted request = Submit(spec);
  EXPECT_EQ(request.observer->finish().kind, FinishKind::kContextLength);
  EXPECT_EQ(request.observer->token_ids().size(), 61u);
}

TEST_F(EngineTest, EndsAtAStopTokenWhichHasNoText) {
  Serve();
  RequestSpec spec = Spec(kEosSeed, 10);
  spec.sampling.stop_token_ids = {kEos};
  const Submitted request = Submit(spec);
  const FinishInfo finish = request.observer->finish();
  EXPECT_EQ(finish.kind, FinishKind::kStopToken);
  EXPECT_EQ(finish.stop_token_id, kEos);
  EXPECT_EQ(finish.n_output_tokens, 4);
  EXPECT_EQ(request.observer->text().size(), 3u);
}

TEST_F(EngineTest, EndsAtAStopSequence) {
  Serve();
  RequestSpec spec = Spec(0, 10);
  spec.stop = {"zz", "ca"};
  const Submitted request = Submit(spec);
  const FinishInfo finish = request.observer->finish();
  EXPECT_EQ(finish.kind, FinishKind::kStopSequence);
  EXPECT_EQ(finish.stop_sequence, "ca");
  EXPECT_EQ(request.observer->text(), "ab");
  ExpectIdle();
}

TEST_F(EngineTest, NonFiniteLogitsFailTheirRequestOnly) {
  const auto worker = Serve();
  worker->Pause();
  const Submitted bad = Submit(Spec(kNonFiniteSeed, 8));
  const Submitted good = Submit(Spec(0, 8));
  worker->GoOn();
  const ApiError error = bad.observer->error();
  EXPECT_EQ(error.code, absl::StatusCode::kInternal);
  EXPECT_EQ(error.reason, reason::kNonFiniteLogits);
  EXPECT_EQ(error.metadata.at("outputTokenCount"), "2");
  EXPECT_FALSE(error.retry_delay.has_value());
  EXPECT_EQ(good.observer->finish().n_output_tokens, 8);
  ExpectIdle();
}

TEST_F(EngineTest, ASlowReaderGetsWhatIsUnderWayAndNothingMoreUntilItResumes) {
  const auto worker = Serve();
  const Submitted slow = Submit(Spec(0, 6), /*slow=*/true);
  // The second token is computed when the first comes.
  slow.observer->AwaitTokens(2);
  // Steps for others pass.
  EXPECT_EQ(Submit(Spec(1, 20)).observer->finish().n_output_tokens, 20);
  EXPECT_EQ(slow.observer->token_ids().size(), 2u);
  engine_->Resume(slow.handle);
  slow.observer->AwaitTokens(4);
  EXPECT_EQ(Submit(Spec(1, 20)).observer->finish().n_output_tokens, 20);
  EXPECT_EQ(slow.observer->token_ids().size(), 4u);
  slow.observer->set_slow(false);
  engine_->Resume(slow.handle);
  EXPECT_EQ(slow.observer->finish().n_output_tokens, 6);
  EXPECT_EQ(slow.observer->text(), "abcabc");
}

TEST_F(EngineTest, DrainsAtOnceWhenThereIsNothing) {
  Serve();
  absl::Notification drained;  // CHECKs that it is notified once
  engine_->Drain(SteadyTime::InfiniteFuture(), [&] { drained.Notify(); });
  EXPECT_TRUE(drained.WaitForNotificationWithTimeout(kPatience));
}

TEST_F(EngineTest, RefusesWhatTheQueueDoesNotHoldWithARetryDelay) {
  EngineOptions options = TestEngineOptions();
  options.cluster.limits.max_num_seqs = 1;
  options.max_num_queued_reqs = 2;
  const auto worker = Serve(options);
  worker->Pause();
  std::vector<Submitted> requests = {Submit(Spec(0, 4))};
  worker->AwaitPlan();  // the first has left the queue
  AwaitSnapshot([](const ServerSnapshot& s) { return s.load.n_running == 1; });
  requests.push_back(Submit(Spec(1, 4)));
  requests.push_back(Submit(Spec(2, 4)));
  const ApiError error = ExpectRefused(Spec(3, 4));
  EXPECT_EQ(error.code, absl::StatusCode::kUnavailable);
  EXPECT_EQ(error.reason, reason::kQueueFull);
  EXPECT_EQ(error.message, "the generation queue holds 2 sequences, its limit is 2");
  EXPECT_EQ(error.metadata.at("queueDepth"), "2");
  EXPECT_EQ(error.metadata.at("limit"), "2");
  ASSERT_TRUE(error.retry_delay.has_value());
  EXPECT_GE(*error.retry_delay, absl::Milliseconds(50));
  EXPECT_LE(*error.retry_delay, absl::Seconds(10));
  worker->GoOn();
  for (const Submitted& request : requests) request.observer->finish();
  ExpectIdle();
}

TEST_F(EngineTest, EachCandidateTakesAPlaceInTheQueue) {
  EngineOptions options = TestEngineOptions();
  options.cluster.limits.max_num_seqs = 2;
  options.max_num_queued_reqs = 8;
  const auto worker = Serve(options);
  worker->Pause();
  RequestSpec several = Spec(0, 4);
  several.n_candidates = 6;
  std::vector<Submitted> requests = {Submit(several)};
  worker->AwaitPlan();
  AwaitSnapshot([](const ServerSnapshot& s) { return s.load.n_running == 1; });
  // Five of the first request's candidates wait for its prompt.
  several.n_candidates = 4;
  const ApiError one_missing = ExpectRefused(several);
  EXPECT_EQ(one_missing.metadata.at("queueDepth"), "5");
  several.n_candidates = 8;
  EXPECT_EQ(*ExpectRefused(several).retry_delay, 5 * *one_missing.retry_delay);
  several.n_candidates = 3;
  requests.push_back(Submit(several));
  EXPECT_EQ(ExpectRefused(Spec(3, 4)).metadata.at("queueDepth"), "8");
  worker->GoOn();
  for (const Submitted& request : requests) request.observer->AwaitEnd();
  ExpectIdle();
  // Nothing is counted any more, and an empty queue takes what is larger than itself.
  several.n_candidates = 9;
  Submit(several).observer->AwaitEnd();
  ExpectIdle();
}

TEST_F(EngineTest, AGroupThatAnswersNonsenseIsBrokenAndFormsAgain) {
  const auto worker = Serve();
  worker->Pause();
  const Submitted request = Submit(Spec(0, 4));
  worker->AwaitPlan();
  const int64_t first = engine_->Snapshot().epoch;
  worker->SayWrongResult(first);
  const ApiError error = request.observer->error();
  EXPECT_EQ(error.reason, reason::kWorkerLost);
  EXPECT_THAT(error.message, HasSubstr("result of step 1048576"));
  EXPECT_FALSE(worker->open());
  Attach();
  AwaitServing(true);
  EXPECT_GT(engine_->Snapshot().epoch, first);
  ExpectIdle();
}

TEST_F(EngineTest, KeepsAPipelineFull) {
  const auto worker = Serve(TestEngineOptions(3));
  worker->Pause();
  std::vector<Submitted> requests;
  for (uint64_t seed = 0; seed < 4; ++seed) requests.push_back(Submit(Spec(seed, 8)));
  // All may be in one prefill step; then each lane takes some of them.
  for (int i = 0; i < 3; ++i) worker->AnswerOne();
  AwaitSnapshot([](const ServerSnapshot& s) { return s.load.n_steps_in_flight >= 2; });
  worker->GoOn();
  for (uint64_t seed = 0; seed < 4; ++seed) {
    requests[seed].observer->finish();
    const std::vector<int32_t> ids = requests[seed].observer->token_ids();
    for (int32_t i = 0; i < 8; ++i) EXPECT_EQ(ids[i], ScriptedTokenId(seed, i));
  }
  ExpectIdle();
}

TEST_F(EngineTest, CountsWhatItDid) {
  Serve();
  for (uint64_t seed = 0; seed < 5; ++seed) Submit(Spec(seed, 4)).observer->finish();
  const ServerSnapshot snapshot =
      AwaitSnapshot([](const ServerSnapshot& s) { return s.load.n_finished_requests_total == 5; });
  EXPECT_EQ(snapshot.load.n_output_tokens_total, 20);
  EXPECT_EQ(snapshot.load.n_prompt_tokens_total, 5 * kPromptTokens);
  EXPECT_EQ(snapshot.load.n_steps_total, 20);
  const auto total = [](const LatencyHistogram& histogram) {
    return std::accumulate(histogram.counts().begin(), histogram.counts().end(), int64_t{0});
  };
  EXPECT_EQ(total(snapshot.load.time_to_first_token), 5);
  EXPECT_EQ(total(snapshot.load.token_gap), 5 * 3);
}

// Whoever got a handle hears the end, also when the engine stops at that moment.
TEST_F(EngineTest, NobodyIsForgottenWhenItStops) {
  for (int round = 0; round < 100; ++round) {
    Serve();
    std::atomic<bool> refused{false};
    std::vector<std::shared_ptr<NotingRequestObserver>> accepted;
    absl::Notification busy;
    std::thread client([&] {
      while (!refused) {
        auto observer = std::make_shared<NotingRequestObserver>();
        auto result = engine_->Submit(Spec(0, 1), observer);
        if (std::holds_alternative<uint64_t>(result)) {
          accepted.push_back(std::move(observer));
          if (accepted.size() == 100) busy.Notify();
        } else if (std::get<ApiError>(result).reason == reason::kDraining) {
          refused = true;
        }
      }
    });
    busy.WaitForNotification();
    engine_->Stop();
    client.join();
    for (const auto& observer : accepted) ASSERT_TRUE(observer->ended()) << "round " << round;
  }
}

// Many clients at once, each with its own manners.
TEST_F(EngineTest, ManyThreadsSubmitCancelAndPause) {
  constexpr int kThreads = 4;
  constexpr int kRequests = 500;  // of each thread
  Serve(TestEngineOptions(2));
  std::atomic<int> n_finished{0};
  std::vector<std::thread> clients;
  for (int thread = 0; thread < kThreads; ++thread) {
    clients.emplace_back([&, thread] {
      std::mt19937 random(thread);
      for (int i = 0; i < kRequests; ++i) {
        const uint64_t seed = random();
        const int32_t max_tokens = 1 + static_cast<int32_t>(random() % 20);
        const Submitted request = Submit(Spec(seed, max_tokens), /*slow=*/random() % 4 == 0);
        switch (random() % 4) {
          case 0:
            engine_->Cancel(request.handle);
            continue;
          default:
            request.observer->set_slow(false);
            request.observer->AwaitTokens(1);
            engine_->Resume(request.handle);
            const FinishInfo finish = request.observer->finish();
            CHECK_EQ(finish.n_output_tokens, max_tokens);
            const std::vector<int32_t> ids = request.observer->token_ids();
            for (int32_t k = 0; k < max_tokens; ++k) CHECK_EQ(ids[k], ScriptedTokenId(seed, k));
            ++n_finished;
        }
      }
    });
  }
  for (std::thread& client : clients) client.join();
  std::printf("%d of %d requests ran to their end\n", n_finished.load(), kThreads * kRequests);
  ExpectIdle();
}

}  // namespace
}  // namespace bora

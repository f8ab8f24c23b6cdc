// The engine with its own thread, scheduler, cluster and text, and a group that answers from a
// script: requests in every state, and every way to end.
#include "coordinator/engine.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <variant>
#include <vector>

#include "tests/coordinator/engine_testing.h"

namespace bora {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr int32_t kPromptTokens = 3;
constexpr int32_t kEos = 2;
constexpr int32_t kA = kFirstTextId;
constexpr int32_t kB = kFirstTextId + 1;
constexpr int32_t kC = kFirstTextId + 2;

// Token i of the completion of a request with this seed: 'a', 'b' or 'c', but for the seeds below.
constexpr uint64_t kEosSeed = 1000001;        // ends with the fourth token
constexpr uint64_t kNonFiniteSeed = 1000002;  // fails at the third

int32_t ScriptedTokenId(uint64_t seed, int32_t i) {
  return kFirstTextId + static_cast<int32_t>((seed + i) % 3);
}

SampledToken Script(const SamplingParams& sampling, int32_t position) {
  const int32_t i = position - kPromptTokens;
  SampledToken token;
  token.token_id = ScriptedTokenId(sampling.seed, i);
  if (sampling.seed == kEosSeed && i == 3) token.token_id = kEos;
  if (sampling.seed == kNonFiniteSeed && i == 2) {
    token.token_id = -1;
    token.non_finite = true;
  }
  return token;
}

EngineOptions Options(int32_t n_stages = 1) {
  EngineOptions options;
  options.cluster.build_id = "b1";
  options.cluster.credential = "secret";
  options.cluster.load.layers_per_stage.assign(n_stages, 1);
  options.cluster.load.max_model_len = 64;
  options.cluster.limits = {.max_num_seqs = 4,
                            .max_num_batched_tokens = 16,
                            .max_model_len = 64,
                            .block_size = 4,
                            .n_blocks = 0,
                            .vocab_size = 1000};
  return options;
}

class EngineTest : public testing::Test {
 protected:
  ~EngineTest() override {
    if (engine_ != nullptr) engine_->Stop();
  }

  void Make(EngineOptions options) {
    n_stages_ = static_cast<int32_t>(options.cluster.load.layers_per_stage.size());
    engine_ = std::make_unique<Engine>(std::move(options), tokenizer_, [this](bool serving) {
      absl::MutexLock lock(&mutex_);
      serving_ = serving;
    });
    engine_->Start();
  }
  std::shared_ptr<ScriptedWorker> Attach() {
    auto worker = std::make_shared<ScriptedWorker>(engine_.get(), Script);
    engine_->OnWorkerAttached(worker, FakeHello("a"));
    return worker;
  }
  void AwaitServing(bool serving) {
    absl::MutexLock lock(&mutex_);
    const auto as_wanted = [&] { return serving_ == serving; };
    CHECK(mutex_.AwaitWithTimeout(absl::Condition(&as_wanted), kPatience)) << serving;
  }
  // An engine that serves with one worker for each stage; the last one answers.
  std::shared_ptr<ScriptedWorker> Serve(EngineOptions options = Options()) {
    Make(std::move(options));
    std::shared_ptr<ScriptedWorker> last;
    for (int32_t stage = 0; stage < n_stages_; ++stage) last = Attach();
    AwaitServing(true);
    return last;
  }

  static RequestSpec Spec(uint64_t seed, int32_t max_tokens) {
    RequestSpec spec;
    spec.prompt_tokens.assign(kPromptTokens, kA);
    spec.sampling.seed = seed;
    spec.max_tokens = max_tokens;
    spec.arrival = absl::Now();
    return spec;
  }
  struct Submitted {
    uint64_t handle = 0;
    std::shared_ptr<NotingRequestObserver> observer;
  };
  Submitted Submit(RequestSpec spec, bool slow = false) {
    Submitted submitted;
    submitted.observer = std::make_shared<NotingRequestObserver>();
    submitted.observer->set_slow(slow);
    auto result = engine_->Submit(std::move(spec), submitted.observer);
    CHECK(std::holds_alternative<uint64_t>(result)) << std::get<ApiError>(result).message;
    submitted.handle = std::get<uint64_t>(result);
    return submitted;
  }
  ApiError ExpectRefused(RequestSpec spec) {
    auto observer = std::make_shared<NotingRequestObserver>();
    auto result = engine_->Submit(std::move(spec), observer);
    if (!std::holds_alternative<ApiError>(result)) {
      ADD_FAILURE() << "accepted";
      return {};
    }
    EXPECT_FALSE(observer->ended());
    return std::get<ApiError>(result);
  }

  // Waits for a snapshot that fits; they are made every 125 ms.
  template <typename Predicate>
  ServerSnapshot AwaitSnapshot(Predicate predicate) {
    const absl::Time deadline = absl::Now() + kPatience;
    while (true) {
      ServerSnapshot snapshot = engine_->Snapshot();
      if (predicate(snapshot)) return snapshot;
      CHECK(absl::Now() < deadline)
          << "running " << snapshot.load.n_running << ", waiting " << snapshot.load.n_waiting
          << ", blocks reserved " << snapshot.load.n_blocks_reserved;
      absl::SleepFor(absl::Milliseconds(5));
    }
  }
  // Nothing of any request is left, and a new one is served.
  void ExpectIdle() {
    const ServerSnapshot snapshot = AwaitSnapshot([](const ServerSnapshot& s) {
      return s.load.n_running == 0 && s.load.n_waiting == 0 && s.load.n_steps_in_flight == 0;
    });
    EXPECT_EQ(snapshot.load.n_waiting_prompt_tokens, 0);
    EXPECT_EQ(snapshot.load.n_blocks_used, 0);
    EXPECT_EQ(snapshot.load.n_blocks_reserved, 0);
    EXPECT_EQ(Submit(Spec(3, 2)).observer->finish().kind, FinishKind::kMaxTokens);
  }

  const Tokenizer tokenizer_ = MakeTestTokenizer();
  absl::Mutex mutex_;
  bool serving_ ABSL_GUARDED_BY(mutex_) = false;
  int32_t n_stages_ = 1;
  std::unique_ptr<Engine> engine_;
};

TEST_F(EngineTest, RefusesRequestsUntilThereIsAGroup) {
  Make(Options());
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

// What a request is doing when something happens to it.
enum class State { kQueued, kRunning, kHeld };

class EngineStateTest : public EngineTest, public testing::WithParamInterface<State> {
 protected:
  // A request in that state; the worker answers nothing on its own.
  Submitted Prepare() {
    EngineOptions options = Options();
    options.cluster.limits.max_num_seqs = 1;
    options.max_num_queued_reqs = 1;  // whoever is counted for ever keeps all others out
    worker_ = Serve(options);
    worker_->Pause();
    if (GetParam() == State::kQueued) {
      first_ = Submit(Spec(7, 30));
      AwaitSnapshot([](const ServerSnapshot& s) { return s.load.n_running == 1; });
    }
    const Submitted request = Submit(WithTimes(Spec(1, 30)), GetParam() == State::kHeld);
    if (GetParam() == State::kQueued) {
      AwaitSnapshot([](const ServerSnapshot& s) { return s.load.n_waiting == 1; });
    } else {
      worker_->AnswerOne();
      if (GetParam() == State::kRunning) worker_->AnswerOne();
      request.observer->AwaitTokens(n_tokens());
    }
    return request;
  }
  size_t n_tokens() const {
    return GetParam() == State::kQueued ? 0 : GetParam() == State::kHeld ? 1 : 2;
  }
  virtual RequestSpec WithTimes(RequestSpec spec) { return spec; }
  // Everything else goes on and nothing is left.
  void ExpectNothingLeft() {
    worker_->GoOn();
    if (first_.observer != nullptr) {
      EXPECT_EQ(first_.observer->finish().n_output_tokens, 30);
    }
    ExpectIdle();
  }

  std::shared_ptr<ScriptedWorker> worker_;
  Submitted first_;
};

std::string StateName(const testing::TestParamInfo<State>& info) {
  return info.param == State::kQueued    ? "Queued"
         : info.param == State::kRunning ? "Running"
                                         : "Held";
}
INSTANTIATE_TEST_SUITE_P(States, EngineStateTest,
                         testing::Values(State::kQueued, State::kRunning, State::kHeld), StateName);

TEST_P(EngineStateTest, CancelFreesEverythingAndSaysNothing) {
  const Submitted request = Prepare();
  engine_->Cancel(request.handle);
  ExpectNothingLeft();
  EXPECT_FALSE(request.observer->ended());
  EXPECT_EQ(request.observer->token_ids().size(), n_tokens());
  engine_->Cancel(request.handle);
  ExpectIdle();
}

TEST_P(EngineStateTest, AbortEndsWithItsError) {
  const Submitted request = Prepare();
  ApiError error;
  error.reason = "SOME_REASON";
  engine_->Abort(request.handle, error);
  EXPECT_EQ(request.observer->error().reason, "SOME_REASON");
  engine_->Abort(request.handle, error);  // the observer CHECKs that this says nothing
  ExpectNothingLeft();
}

TEST_P(EngineStateTest, ResumeIsHarmless) {
  const Submitted request = Prepare();
  request.observer->set_slow(false);
  engine_->Resume(request.handle);
  engine_->Resume(request.handle);
  worker_->GoOn();
  EXPECT_EQ(request.observer->finish().n_output_tokens, 30);
  engine_->Resume(request.handle);
  ExpectNothingLeft();
}

TEST_P(EngineStateTest, StopEndsWithDraining) {
  const Submitted request = Prepare();
  engine_->Stop();
  const ApiError error = request.observer->error();
  EXPECT_EQ(error.code, absl::StatusCode::kUnavailable);
  EXPECT_EQ(error.reason, reason::kDraining);
  EXPECT_TRUE(error.retry_delay.has_value());
  EXPECT_EQ(error.metadata.at("outputTokenCount"), std::to_string(n_tokens()));
  EXPECT_FALSE(worker_->open());
  EXPECT_EQ(ExpectRefused(Spec(0, 1)).reason, reason::kDraining);
  AwaitServing(false);
}

TEST_P(EngineStateTest, DrainLetsItFinish) {
  const Submitted request = Prepare();
  absl::Notification drained;
  engine_->Drain(absl::InfiniteFuture(), [&] { drained.Notify(); });
  EXPECT_EQ(ExpectRefused(Spec(0, 1)).reason, reason::kDraining);
  AwaitServing(false);
  EXPECT_FALSE(drained.HasBeenNotified());
  request.observer->set_slow(false);
  engine_->Resume(request.handle);
  worker_->GoOn();
  EXPECT_EQ(request.observer->finish().n_output_tokens, 30);
  EXPECT_TRUE(drained.WaitForNotificationWithTimeout(kPatience));
  EXPECT_TRUE(engine_->Snapshot().draining);
}

TEST_P(EngineStateTest, DrainEndsItAtTheDeadline) {
  const Submitted request = Prepare();
  absl::Notification drained;
  engine_->Drain(absl::Now() + absl::Milliseconds(100), [&] { drained.Notify(); });
  EXPECT_EQ(request.observer->error().reason, reason::kDraining);
  EXPECT_TRUE(drained.WaitForNotificationWithTimeout(kPatience));
}

TEST_P(EngineStateTest, LossOfTheWorkerEndsIt) {
  const Submitted request = Prepare();
  worker_->Die("killed");
  const ApiError error = request.observer->error();
  EXPECT_EQ(error.code, absl::StatusCode::kUnavailable);
  EXPECT_EQ(error.reason, reason::kWorkerLost);
  EXPECT_THAT(error.message, HasSubstr("killed"));
  EXPECT_TRUE(error.retry_delay.has_value());
  EXPECT_EQ(error.metadata.at("outputTokenCount"), std::to_string(n_tokens()));
  AwaitServing(false);
  if (first_.observer != nullptr) {
    EXPECT_EQ(first_.observer->error().reason, reason::kWorkerLost);
  }
  EXPECT_EQ(ExpectRefused(Spec(0, 1)).reason, reason::kNotReady);
  Attach();
  AwaitServing(true);
  ExpectIdle();
}

class EngineDeadlineTest : public EngineStateTest {
 protected:
  RequestSpec WithTimes(RequestSpec spec) override {
    spec.deadline = absl::Now() + absl::Milliseconds(300);
    return spec;
  }
};
INSTANTIATE_TEST_SUITE_P(States, EngineDeadlineTest,
                         testing::Values(State::kQueued, State::kRunning, State::kHeld), StateName);

TEST_P(EngineDeadlineTest, EndsItWithDeadlineExceeded) {
  const Submitted request = Prepare();
  const ApiError error = request.observer->error();
  EXPECT_EQ(error.code, absl::StatusCode::kDeadlineExceeded);
  if (GetParam() == State::kQueued) {
    EXPECT_EQ(error.reason, reason::kDeadlineInQueue);
  } else {
    EXPECT_EQ(error.reason, reason::kDeadlineInDecode);
    EXPECT_EQ(error.metadata.at("outputTokenCount"), std::to_string(n_tokens()));
  }
  ExpectNothingLeft();
}

class EngineTimeLimitTest : public EngineStateTest {
 protected:
  RequestSpec WithTimes(RequestSpec spec) override {
    spec.time_limit = absl::Now() + absl::Milliseconds(300);
    return spec;
  }
};
INSTANTIATE_TEST_SUITE_P(States, EngineTimeLimitTest,
                         testing::Values(State::kQueued, State::kRunning, State::kHeld), StateName);

TEST_P(EngineTimeLimitTest, EndsItWell) {
  const Submitted request = Prepare();
  const FinishInfo finish = request.observer->finish();
  EXPECT_EQ(finish.kind, FinishKind::kTimeLimit);
  EXPECT_EQ(finish.n_output_tokens, static_cast<int32_t>(n_tokens()));
  EXPECT_GE(finish.timing.queue, absl::ZeroDuration());
  EXPECT_GE(finish.timing.prefill, absl::ZeroDuration());
  ExpectNothingLeft();
}

TEST_F(EngineTest, ASlowReaderGetsNothingUntilItResumes) {
  const auto worker = Serve();
  const Submitted slow = Submit(Spec(0, 6), /*slow=*/true);
  slow.observer->AwaitTokens(1);
  // Steps for others pass.
  EXPECT_EQ(Submit(Spec(1, 20)).observer->finish().n_output_tokens, 20);
  EXPECT_EQ(slow.observer->token_ids().size(), 1u);
  engine_->Resume(slow.handle);
  slow.observer->AwaitTokens(2);
  EXPECT_EQ(Submit(Spec(1, 20)).observer->finish().n_output_tokens, 20);
  EXPECT_EQ(slow.observer->token_ids().size(), 2u);
  slow.observer->set_slow(false);
  engine_->Resume(slow.handle);
  EXPECT_EQ(slow.observer->finish().n_output_tokens, 6);
  EXPECT_EQ(slow.observer->text(), "abcabc");
}

TEST_F(EngineTest, DrainsAtOnceWhenThereIsNothing) {
  Serve();
  absl::Notification drained;  // CHECKs that it is notified once
  engine_->Drain(absl::InfiniteFuture(), [&] { drained.Notify(); });
  EXPECT_TRUE(drained.WaitForNotificationWithTimeout(kPatience));
}

TEST_F(EngineTest, RefusesWhatTheQueueDoesNotHoldWithARetryDelay) {
  EngineOptions options = Options();
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
  EXPECT_EQ(error.message, "the queue holds 2 requests, its limit is 2");
  EXPECT_EQ(error.metadata.at("queueDepth"), "2");
  EXPECT_EQ(error.metadata.at("limit"), "2");
  ASSERT_TRUE(error.retry_delay.has_value());
  EXPECT_GE(*error.retry_delay, absl::Milliseconds(50));
  EXPECT_LE(*error.retry_delay, absl::Seconds(10));
  worker->GoOn();
  for (const Submitted& request : requests) request.observer->finish();
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
  worker->GoOn();
  AwaitServing(true);
  EXPECT_GT(engine_->Snapshot().epoch, first);
  ExpectIdle();
}

TEST_F(EngineTest, KeepsAPipelineFull) {
  const auto worker = Serve(Options(3));
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
TEST_F(EngineTest, ManyThreadsSubmitCancelAbortAndPause) {
  constexpr int kThreads = 4;
  constexpr int kRequests = 500;  // of each thread
  Serve(Options(2));
  std::atomic<int> n_finished{0};
  std::vector<std::thread> clients;
  for (int thread = 0; thread < kThreads; ++thread) {
    clients.emplace_back([&, thread] {
      std::mt19937 random(thread);
      for (int i = 0; i < kRequests; ++i) {
        const uint64_t seed = random();
        const int32_t max_tokens = 1 + static_cast<int32_t>(random() % 20);
        const Submitted request = Submit(Spec(seed, max_tokens), /*slow=*/random() % 4 == 0);
        ApiError error;
        error.reason = "ABORTED";
        switch (random() % 4) {
          case 0:
            engine_->Cancel(request.handle);
            continue;
          case 1:
            engine_->Abort(request.handle, error);
            request.observer->AwaitEnd();
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

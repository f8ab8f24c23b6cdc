// What can happen to a request while it is queued, running or held for a slow reader: each time it
// ends as it should and leaves nothing behind.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>

#include "base/clock.h"
#include "tests/coordinator/engine_testing.h"

namespace bora {
namespace {

using ::testing::HasSubstr;

// What a request is doing when something happens to it.
enum class State { kQueued, kRunning, kHeld };

class EngineStateTest : public EngineTest, public testing::WithParamInterface<State> {
 protected:
  // A request in that state; the worker answers nothing on its own.
  Submitted Prepare() {
    EngineOptions options = TestEngineOptions();
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
  engine_->Drain(SteadyTime::InfiniteFuture(), [&] { drained.Notify(); });
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
  engine_->Drain(SteadyNow() + absl::Milliseconds(100), [&] { drained.Notify(); });
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
    spec.deadline = SteadyNow() + absl::Milliseconds(300);
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
    spec.time_limit = SteadyNow() + absl::Milliseconds(300);
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

}  // namespace
}  // namespace bora

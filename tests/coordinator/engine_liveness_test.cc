// The engine by a clock that the test sets: a worker that is late, and one that is lost.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>

#include "absl/time/clock.h"
#include "base/clock.h"
#include "tests/coordinator/engine_testing.h"

namespace bora {
namespace {

using testing::HasSubstr;

// Thread-safe.
class FakeClock {
 public:
  SteadyTime Now() const {
    absl::MutexLock lock(&mutex_);
    return now_;
  }
  void Advance(absl::Duration duration) {
    absl::MutexLock lock(&mutex_);
    now_ += duration;
  }

 private:
  mutable absl::Mutex mutex_;
  SteadyTime now_ ABSL_GUARDED_BY(mutex_) = SteadyTime() + absl::Hours(1);
};

class EngineLivenessTest : public EngineTest {
 protected:
  ~EngineLivenessTest() override {
    if (engine_ != nullptr) engine_->Stop();  // before its clock ends
  }

  EngineOptions Options() {
    EngineOptions options = TestEngineOptions();
    options.clock = [this] { return clock_.Now(); };
    return options;
  }
  // A request with one token, and a plan that its worker has not answered.
  Submitted SubmitAndPause(const std::shared_ptr<ScriptedWorker>& worker) {
    worker->Pause();
    RequestSpec spec = Spec(3, 30);
    spec.arrival = clock_.Now();
    const Submitted submitted = Submit(std::move(spec));
    worker->AnswerOne();
    submitted.observer->AwaitTokens(1);
    worker->AwaitPlan();
    return submitted;
  }
  // Lets time pass in steps that the engine's ticks can follow, up to `limit`.
  absl::Duration PassUntil(const std::function<bool()>& done, absl::Duration limit) {
    constexpr absl::Duration kStep = absl::Milliseconds(200);
    absl::Duration passed;
    while (!done() && passed < limit) {
      clock_.Advance(kStep);
      passed += kStep;
      const SteadyTime now = clock_.Now();
      engine_->Cancel(0);  // wakes it
      // The engine says at every tick what it last heard; a tick has come when it has seen `now`.
      AwaitTick(now);
    }
    return passed;
  }
  bool serving() {
    absl::MutexLock lock(&mutex_);
    return serving_;
  }

  FakeClock clock_;

 private:
  void AwaitTick(SteadyTime now) {
    AwaitSnapshot([now](const ServerSnapshot& snapshot) { return snapshot.time >= now; });
  }
};

TEST_F(EngineLivenessTest, ALateWorkerKeepsItsStreamsAndServesAgainWhenItIsHeard) {
  const auto worker = Serve(Options());
  const Submitted request = SubmitAndPause(worker);
  const int64_t epoch = engine_->Snapshot().epoch;
  worker->SetSilent(true);
  const absl::Duration until_suspect = PassUntil([&] { return !serving(); }, absl::Seconds(4));
  EXPECT_FALSE(serving());
  EXPECT_GT(until_suspect, absl::Milliseconds(1400));
  EXPECT_LE(until_suspect, absl::Milliseconds(2000));
  const ApiError error = ExpectRefused(Spec(0, 1));
  EXPECT_EQ(error.reason, reason::kNotReady);
  EXPECT_THAT(error.metadata.at("detail"), HasSubstr("has been silent for 1"));
  PassUntil([] { return false; }, absl::Seconds(2));
  EXPECT_FALSE(request.observer->ended());
  worker->SetSilent(false);
  AwaitServing(true);
  worker->GoOn();
  EXPECT_EQ(request.observer->finish().n_output_tokens, 30);
  EXPECT_EQ(engine_->Snapshot().epoch, epoch);
  EXPECT_EQ(Submit(Spec(0, 1)).observer->finish().kind, FinishKind::kMaxTokens);
}

TEST_F(EngineLivenessTest, ALostWorkerEndsTheStreams) {
  EngineOptions options = Options();
  options.cluster.heartbeat_timeout = absl::Seconds(3);
  const auto worker = Serve(std::move(options));
  const Submitted request = SubmitAndPause(worker);
  worker->SetSilent(true);
  const absl::Duration until_lost =
      PassUntil([&] { return request.observer->ended(); }, absl::Seconds(6));
  EXPECT_EQ(request.observer->error().reason, reason::kWorkerLost);
  EXPECT_GT(until_lost, absl::Milliseconds(2800));
  EXPECT_LE(until_lost, absl::Milliseconds(3500));
}

TEST_F(EngineLivenessTest, AnHourInWhichItStoodStillItselfIsNobodysSilence) {
  const auto worker = Serve(Options());
  const Submitted request = SubmitAndPause(worker);
  PassUntil([] { return false; }, absl::Seconds(1));
  clock_.Advance(absl::Hours(1));
  PassUntil([] { return false; }, absl::Seconds(1));
  EXPECT_TRUE(serving());
  worker->GoOn();
  EXPECT_EQ(request.observer->finish().n_output_tokens, 30);
}

}  // namespace
}  // namespace bora

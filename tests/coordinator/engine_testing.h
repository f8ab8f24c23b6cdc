// What the engine's tests stand on: workers inside the process that answer plans from a script, an
// observer that notes what it hears, and a fixture with an engine and both.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "base/check.h"
#include "base/clock.h"
#include "coordinator/engine/engine.h"
#include "tests/coordinator/fake_worker.h"
#include "tests/coordinator/public_api/test_vocabulary.h"
#include "tests/coordinator/scripted_group.h"

namespace bora {

// Long enough for any machine; a test that waits as long fails.
inline constexpr absl::Duration kPatience = absl::Seconds(30);

// Thread-safe: the engine sends, the test pauses and breaks.
class ScriptedWorker final : public WorkerStream,
                             public std::enable_shared_from_this<ScriptedWorker> {
 public:
  ScriptedWorker(Engine* engine, ScriptedGroup::Script script)
      : engine_(engine), script_(std::move(script)) {}

  void Send(CoordinatorMessage message) override {
    absl::MutexLock lock(&mutex_);
    CHECK(open_) << "a message after Close";
    if (const auto* load = std::get_if<LoadModel>(&message)) {
      stage_ = load->stage;
      n_stages_ = static_cast<int32_t>(load->layers_per_stage.size());
      LoadedModel loaded = FakeLoaded(*load);
      loaded.max_blocks = 1000;
      Say(LoadResult{absl::OkStatus(), std::move(loaded)});
    } else if (const auto* join = std::get_if<JoinGroup>(&message)) {
      group_ = std::make_unique<ScriptedGroup>(join->limits, script_);
      Say(JoinResult{join->epoch, absl::OkStatus()});
    } else if (std::holds_alternative<LeaveGroup>(message)) {
      group_ = nullptr;
      results_.clear();
    } else if (const auto* plan = std::get_if<StepPlan>(&message)) {
      CHECK(group_ != nullptr);
      absl::StatusOr<StepResult> result = group_->Execute(*plan);
      CHECK(result.ok()) << result.status();
      // As in a group of one tensor rank: the last stage answers.
      if (stage_ != n_stages_ - 1) return;
      results_.push_back(*std::move(result));
      if (!paused_) SayResults(results_.size());
    } else if (std::holds_alternative<Heartbeat>(message) && !silent_) {
      Say(Heartbeat{});
    }
  }
  void SendPlan(std::shared_ptr<const StepPlan> plan) override { Send(*plan); }
  void Close(absl::Status reason) override {
    absl::MutexLock lock(&mutex_);
    open_ = false;
    close_reason_ = std::move(reason);
  }

  // Results stay here until they are released.
  void Pause() {
    absl::MutexLock lock(&mutex_);
    paused_ = true;
  }
  void GoOn() {
    absl::MutexLock lock(&mutex_);
    paused_ = false;
    SayResults(results_.size());
  }
  // Answers heartbeats no more, or again.
  void SetSilent(bool silent) {
    absl::MutexLock lock(&mutex_);
    silent_ = silent;
    if (!silent) Say(Heartbeat{});
  }
  // Waits for a step and answers it, while paused.
  void AnswerOne() {
    absl::MutexLock lock(&mutex_);
    const auto has_result = [this] { return !results_.empty(); };
    CHECK(mutex_.AwaitWithTimeout(absl::Condition(&has_result), kPatience)) << "no plan";
    SayResults(1);
  }
  // Waits until a plan has come that is not answered yet.
  void AwaitPlan() {
    absl::MutexLock lock(&mutex_);
    const auto has_result = [this] { return !results_.empty(); };
    CHECK(mutex_.AwaitWithTimeout(absl::Condition(&has_result), kPatience)) << "no plan";
  }
  // What this worker says next goes wrong.
  void SayWrongResult(int64_t epoch) {
    StepResult result;
    result.epoch = epoch;
    result.step_id = 1 << 20;
    engine_->OnWorkerMessage(shared_from_this(), std::move(result), nullptr);
  }
  void Die(const std::string& reason) {
    {
      absl::MutexLock lock(&mutex_);
      results_.clear();
    }
    engine_->OnWorkerGone(shared_from_this(), reason);
  }
  bool open() const {
    absl::MutexLock lock(&mutex_);
    return open_;
  }

 private:
  void Say(WorkerMessage message) {
    engine_->OnWorkerMessage(shared_from_this(), std::move(message), nullptr);
  }
  void SayResults(size_t n) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    for (; n > 0; --n) {
      Say(std::move(results_.front()));
      results_.pop_front();
    }
  }

  Engine* const engine_;
  const ScriptedGroup::Script script_;
  mutable absl::Mutex mutex_;
  bool open_ ABSL_GUARDED_BY(mutex_) = true;
  bool paused_ ABSL_GUARDED_BY(mutex_) = false;
  bool silent_ ABSL_GUARDED_BY(mutex_) = false;
  int32_t stage_ ABSL_GUARDED_BY(mutex_) = 0;
  int32_t n_stages_ ABSL_GUARDED_BY(mutex_) = 1;
  absl::Status close_reason_ ABSL_GUARDED_BY(mutex_);
  std::unique_ptr<ScriptedGroup> group_ ABSL_GUARDED_BY(mutex_);
  std::deque<StepResult> results_ ABSL_GUARDED_BY(mutex_);
};

// Thread-safe. CHECKs that it hears nothing after the end.
class NotingRequestObserver final : public RequestObserver {
 public:
  bool OnDelta(OutputDelta delta) override {
    absl::MutexLock lock(&mutex_);
    CHECK(!ended_) << "a delta after the end";
    text_ += delta.text;
    for (SampledToken& token : delta.tokens) token_ids_.push_back(token.token_id);
    n_prompt_logprobs_ += static_cast<int32_t>(delta.prompt_logprobs.size());
    if (delta.finish.has_value()) {
      finish_ = *std::move(delta.finish);
    }
    ended_ = delta.last;
    return !slow_;
  }
  void OnError(ApiError error) override {
    absl::MutexLock lock(&mutex_);
    CHECK(!ended_) << "an error after the end";
    error_ = std::move(error);
    ended_ = true;
  }

  // From now on OnDelta says that the reader is slow, or that it is not.
  void set_slow(bool slow) {
    absl::MutexLock lock(&mutex_);
    slow_ = slow;
  }
  void AwaitEnd() {
    absl::MutexLock lock(&mutex_);
    CHECK(mutex_.AwaitWithTimeout(absl::Condition(&ended_), kPatience)) << "the request goes on";
  }
  void AwaitTokens(size_t n) {
    absl::MutexLock lock(&mutex_);
    const auto has_tokens = [&] { return token_ids_.size() >= n; };
    CHECK(mutex_.AwaitWithTimeout(absl::Condition(&has_tokens), kPatience))
        << token_ids_.size() << " tokens of " << n;
  }
  FinishInfo finish() {
    AwaitEnd();
    absl::MutexLock lock(&mutex_);
    CHECK(error_.reason.empty()) << error_.reason << ": " << error_.message;
    return finish_;
  }
  ApiError error() {
    AwaitEnd();
    absl::MutexLock lock(&mutex_);
    CHECK(!error_.reason.empty()) << "the request ended well";
    return error_;
  }
  bool ended() const {
    absl::MutexLock lock(&mutex_);
    return ended_;
  }
  bool failed() const {
    absl::MutexLock lock(&mutex_);
    return !error_.reason.empty();
  }
  std::string text() const {
    absl::MutexLock lock(&mutex_);
    return text_;
  }
  std::vector<int32_t> token_ids() const {
    absl::MutexLock lock(&mutex_);
    return token_ids_;
  }
  int32_t n_prompt_logprobs() const {
    absl::MutexLock lock(&mutex_);
    return n_prompt_logprobs_;
  }

 private:
  mutable absl::Mutex mutex_;
  bool slow_ ABSL_GUARDED_BY(mutex_) = false;
  bool ended_ ABSL_GUARDED_BY(mutex_) = false;
  std::string text_ ABSL_GUARDED_BY(mutex_);
  std::vector<int32_t> token_ids_ ABSL_GUARDED_BY(mutex_);
  int32_t n_prompt_logprobs_ ABSL_GUARDED_BY(mutex_) = 0;
  FinishInfo finish_ ABSL_GUARDED_BY(mutex_);
  ApiError error_ ABSL_GUARDED_BY(mutex_);
};

inline constexpr int32_t kPromptTokens = 3;
inline constexpr int32_t kEos = 2;
inline constexpr int32_t kA = kFirstTextId;
inline constexpr int32_t kB = kFirstTextId + 1;
inline constexpr int32_t kC = kFirstTextId + 2;

// Token i of the completion of a request with this seed: 'a', 'b' or 'c', but for the seeds below.
inline constexpr uint64_t kEosSeed = 1000001;        // ends with the fourth token
inline constexpr uint64_t kNonFiniteSeed = 1000002;  // fails at the third

inline int32_t ScriptedTokenId(uint64_t seed, int32_t i) {
  return kFirstTextId + static_cast<int32_t>((seed + i) % 3);
}

inline SampledToken ScriptedToken(const SamplingParams& sampling, int32_t position) {
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

inline EngineOptions TestEngineOptions(int32_t n_stages = 1) {
  EngineOptions options;
  options.cluster.build_id = "b1";
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
    auto worker = std::make_shared<ScriptedWorker>(engine_.get(), ScriptedToken);
    engine_->OnWorkerAttached(worker, FakeHello("a"));
    return worker;
  }
  void AwaitServing(bool serving) {
    absl::MutexLock lock(&mutex_);
    const auto as_wanted = [&] { return serving_ == serving; };
    CHECK(mutex_.AwaitWithTimeout(absl::Condition(&as_wanted), kPatience)) << serving;
  }
  // An engine that serves with one worker for each stage; the last one answers.
  std::shared_ptr<ScriptedWorker> Serve(EngineOptions options = TestEngineOptions()) {
    Make(std::move(options));
    std::shared_ptr<ScriptedWorker> last;
    for (int32_t stage = 0; stage < n_stages_; ++stage) last = Attach();
    AwaitServing(true);
    return last;
  }

  static RequestSpec Spec(uint64_t seed, int32_t max_tokens) {
    RequestSpec spec;
    spec.prompt_tokens = std::vector<int32_t>(kPromptTokens, kA);
    spec.sampling.seed = seed;
    spec.max_tokens = max_tokens;
    spec.arrival = SteadyNow();
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
    const SteadyTime deadline = SteadyNow() + kPatience;
    while (true) {
      ServerSnapshot snapshot = engine_->Snapshot();
      if (predicate(snapshot)) return snapshot;
      CHECK(SteadyNow() < deadline)
          << "running " << snapshot.load.n_running << ", waiting " << snapshot.load.n_waiting
          << ", blocks used " << snapshot.load.n_blocks_used;
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
    EXPECT_EQ(Submit(Spec(3, 2)).observer->finish().kind, FinishKind::kMaxTokens);
  }

  const Tokenizer tokenizer_ = MakeTestTokenizer();
  absl::Mutex mutex_;
  bool serving_ ABSL_GUARDED_BY(mutex_) = false;
  int32_t n_stages_ = 1;
  std::unique_ptr<Engine> engine_;
};

}  // namespace bora

// What the engine's tests stand on: workers inside the process that answer plans from a script, an
// observer that notes what it hears, and an engine with both.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "base/check.h"
#include "coordinator/engine.h"
#include "tests/coordinator/fake_worker.h"
#include "tests/coordinator/public_api/test_vocabulary.h"
#include "tests/coordinator/scripted_group.h"

namespace bora {

// Long enough for any machine; a test that waits as long fails.
inline constexpr absl::Duration kPatience = absl::Seconds(30);

// Thread-safe: the engine sends, the test pauses and breaks.
class ScriptedWorker final : public WorkerLink,
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
    } else if (std::holds_alternative<Heartbeat>(message)) {
      Say(Heartbeat{});
    }
  }
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
    engine_->OnWorkerMessage(shared_from_this(), std::move(result));
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
    engine_->OnWorkerMessage(shared_from_this(), std::move(message));
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
      ended_ = true;
    }
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

}  // namespace bora

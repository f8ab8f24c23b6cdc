// A Generator without a model. By hand: a test takes submitted requests and says what their
// observers hear. On its own: a thread makes tokens for all open requests, as a pure function of
// seed and place, with the text rules of the real engine.
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <set>
#include <thread>
#include <utility>
#include <variant>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "coordinator/api/generator.h"
#include "coordinator/engine/completion_text.h"
#include "model/text/tokenizer.h"
#include "tests/coordinator/public_api/test_vocabulary.h"

namespace bora {

// Thread-safe.
class FakeEngine : public Generator {
 public:
  enum class Mode { kByHand, kOnItsOwn };

  FakeEngine(Mode mode, const Tokenizer& tokenizer) : tokenizer_(tokenizer) {
    if (mode == Mode::kOnItsOwn) thread_ = std::thread([this] { Run(); });
  }
  ~FakeEngine() override {
    {
      absl::MutexLock lock(&mutex_);
      stopping_ = true;
    }
    if (thread_.joinable()) thread_.join();
  }

  std::variant<uint64_t, ApiError> Submit(RequestSpec spec,
                                          std::shared_ptr<RequestObserver> observer) override {
    absl::MutexLock lock(&mutex_);
    if (!refusals_.empty()) {
      ApiError error = refusals_.front();
      refusals_.pop_front();
      return error;
    }
    const uint64_t handle = ++last_handle_;
    auto open = std::make_shared<Open>(tokenizer_, std::move(spec), std::move(observer));
    open_.emplace(handle, std::move(open));
    return handle;
  }
  void Cancel(uint64_t handle) override {
    absl::MutexLock lock(&mutex_);
    cancelled_.insert(handle);
    open_.erase(handle);
  }
  void Resume(uint64_t handle) override {
    absl::MutexLock lock(&mutex_);
    ++n_resumed_;
    if (auto it = open_.find(handle); it != open_.end()) it->second->paused = false;
  }
  ServerSnapshot Snapshot() const override {
    absl::MutexLock lock(&mutex_);
    return snapshot_;
  }

  // The next requests are refused with these.
  void Refuse(ApiError error) {
    absl::MutexLock lock(&mutex_);
    refusals_.push_back(std::move(error));
  }
  void SetSnapshot(ServerSnapshot snapshot) {
    absl::MutexLock lock(&mutex_);
    snapshot_ = std::move(snapshot);
  }

  // Waits until the request with this handle (1, 2, ...) is there; its spec.
  RequestSpec WaitForRequest(uint64_t handle) {
    absl::MutexLock lock(&mutex_);
    const auto is_there = [&] { return open_.count(handle) > 0; };
    CHECK(mutex_.AwaitWithTimeout(absl::Condition(&is_there), absl::Seconds(20)));
    return open_[handle]->spec;
  }
  void WaitForCancel(uint64_t handle) {
    absl::MutexLock lock(&mutex_);
    const auto is_there = [&] { return cancelled_.count(handle) > 0; };
    CHECK(mutex_.AwaitWithTimeout(absl::Condition(&is_there), absl::Seconds(20)));
  }
  // Returns what OnDelta said; nothing if the request is not open.
  std::optional<bool> Emit(uint64_t handle, OutputDelta delta) {
    std::shared_ptr<Open> open;
    bool was_paused = false;
    {
      absl::MutexLock lock(&mutex_);
      const auto it = open_.find(handle);
      if (it == open_.end()) return std::nullopt;
      open = it->second;
      if (delta.finish.has_value()) ++open->n_ended;
      delta.last = open->n_ended == open->spec.n_candidates;
      if (delta.last) open_.erase(it);
      was_paused = std::exchange(open->paused, true);
    }
    const bool goes_on = open->observer->OnDelta(std::move(delta));
    absl::MutexLock lock(&mutex_);
    if (goes_on && !was_paused) open->paused = false;
    return goes_on;
  }
  // Whether the engine makes no tokens for this request: its observer asked it to wait, and Resume
  // has not come since.
  bool IsPaused(uint64_t handle) const {
    absl::MutexLock lock(&mutex_);
    const auto it = open_.find(handle);
    return it != open_.end() && it->second->paused;
  }
  void Fail(uint64_t handle, ApiError error) {
    std::shared_ptr<RequestObserver> observer = Observer(handle, /*last=*/true);
    if (observer != nullptr) observer->OnError(std::move(error));
  }
  // The request's observer as the engine holds it, for calls after the end.
  std::shared_ptr<RequestObserver> Observer(uint64_t handle, bool last) {
    absl::MutexLock lock(&mutex_);
    const auto it = open_.find(handle);
    if (it == open_.end()) return nullptr;
    std::shared_ptr<RequestObserver> observer = it->second->observer;
    if (last) open_.erase(it);
    return observer;
  }
  int64_t n_open() const {
    absl::MutexLock lock(&mutex_);
    return static_cast<int64_t>(open_.size());
  }
  int64_t n_resumed() const {
    absl::MutexLock lock(&mutex_);
    return n_resumed_;
  }
  // Between steps, in the mode that makes tokens on its own.
  void set_step_pause(absl::Duration pause) {
    absl::MutexLock lock(&mutex_);
    step_pause_ = pause;
  }

 private:
  struct Open {
    Open(const Tokenizer& tokenizer, RequestSpec request, std::shared_ptr<RequestObserver> observer)
        : spec(std::move(request)),
          observer(std::move(observer)),
          text(tokenizer, spec.prompt_tokens, spec.stop, spec.include_stop_in_output,
               spec.sampling.min_tokens),
          random(static_cast<uint32_t>(spec.sampling.seed)) {}
    RequestSpec spec;
    std::shared_ptr<RequestObserver> observer;
    CompletionText text;
    std::mt19937 random;
    int32_t n_tokens = 0;
    int32_t n_ended = 0;  // candidates
    bool paused = false;
  };

  void Run() {
    while (true) {
      std::vector<std::pair<uint64_t, std::shared_ptr<Open>>> step;
      absl::Duration pause;
      {
        absl::MutexLock lock(&mutex_);
        const auto has_work = [&] { return stopping_ || !open_.empty(); };
        mutex_.Await(absl::Condition(&has_work));
        if (stopping_) return;
        pause = step_pause_;
        for (auto& [handle, open] : open_) {
          if (!open->paused) step.push_back({handle, open});
        }
      }
      for (auto& [handle, open] : step) Step(handle, open.get());
      absl::SleepFor(pause);  // the time that a model would take
    }
  }

  void Step(uint64_t handle, Open* open) {
    OutputDelta delta = NextDelta(open);
    if (delta.finish.has_value()) {
      absl::MutexLock lock(&mutex_);
      open_.erase(handle);
    }
    {
      // As the engine does it: said before the observer can ask to go on.
      absl::MutexLock lock(&mutex_);
      open->paused = true;
    }
    if (!open->observer->OnDelta(std::move(delta))) return;
    absl::MutexLock lock(&mutex_);
    open->paused = false;
  }

  OutputDelta NextDelta(Open* open) {
    OutputDelta delta;
    SampledToken token;
    const uint32_t draw = open->random();
    token.token_id = draw % 4 == 0 ? kFirstByteId + static_cast<int32_t>((draw >> 8) % 256)
                                   : kFirstTextId + static_cast<int32_t>((draw >> 8) % 12);
    token.position = static_cast<int32_t>(open->spec.prompt_tokens.size()) + open->n_tokens;
    token.rank = 1;
    token.logprob = -0.5f;
    for (int i = 0; i < open->spec.sampling.n_logprobs; ++i) token.top.push_back({i, -1.0f - i});
    delta.tokens.push_back(token);
    ++open->n_tokens;
    FinishInfo finish;
    finish.seed = open->spec.sampling.seed;
    finish.n_prompt_tokens = static_cast<int32_t>(open->spec.prompt_tokens.size());
    finish.n_output_tokens = open->n_tokens;
    CompletionText::Piece piece = open->text.Append(token.token_id);
    delta.text = piece.delta;
    if (piece.stop_sequence_matched.has_value()) {
      finish.kind = FinishKind::kStopSequence;
      finish.stop_sequence = *piece.stop_sequence_matched;
      delta.finish = finish;
      delta.last = true;
    } else if (open->n_tokens == open->spec.max_tokens) {
      finish.kind =
          open->spec.context_limited ? FinishKind::kContextLength : FinishKind::kMaxTokens;
      delta.text += open->text.Finish();
      delta.finish = finish;
      delta.last = true;
    }
    return delta;
  }

  const Tokenizer& tokenizer_;
  mutable absl::Mutex mutex_;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  uint64_t last_handle_ ABSL_GUARDED_BY(mutex_) = 0;
  std::deque<ApiError> refusals_ ABSL_GUARDED_BY(mutex_);
  std::map<uint64_t, std::shared_ptr<Open>> open_ ABSL_GUARDED_BY(mutex_);
  std::set<uint64_t> cancelled_ ABSL_GUARDED_BY(mutex_);
  int64_t n_resumed_ ABSL_GUARDED_BY(mutex_) = 0;
  absl::Duration step_pause_ ABSL_GUARDED_BY(mutex_);
  ServerSnapshot snapshot_ ABSL_GUARDED_BY(mutex_);
  std::thread thread_;
};

}  // namespace bora

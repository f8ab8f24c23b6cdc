#include "coordinator/call/generate_call.h"

#include <string>
#include <utility>
#include <variant>

#include "base/check.h"
#include "coordinator/api/api_errors.h"
#include "coordinator/api/api_limits.h"
#include "coordinator/api/generator.h"
#include "coordinator/api/request_validator.h"
#include "coordinator/call/access_log.h"
#include "coordinator/call/task_pool.h"

namespace bora {

namespace v1 = inference::v1;

namespace {

// The engine is paused while more than this many bytes wait for the client, and resumed below half
// of that, so that it is not paused and resumed for every message.
constexpr int64_t kMaxPendingBytes = kMaxStreamMessageBytes;

}  // namespace

GenerateCall::GenerateCall(CallRecord record, StreamTransport* transport,
                           const CallServices& services)
    : GenerateCall(std::move(record), transport, nullptr, transport, services) {}

GenerateCall::GenerateCall(CallRecord record, AnswerTransport* transport,
                           const CallServices& services)
    : GenerateCall(std::move(record), nullptr, transport, transport, services) {}

GenerateCall::GenerateCall(CallRecord record, StreamTransport* stream, AnswerTransport* answer,
                           CallTransport* transport, const CallServices& services)
    : services_(services),
      stream_(stream),
      answer_(answer),
      transport_(transport),
      record_(std::move(record)) {
  services_.n_live_calls->fetch_add(1, std::memory_order_relaxed);
}

void GenerateCall::Start() { services_.pump->Add(shared_from_this()); }

void GenerateCall::RunLater(std::function<void()> task) {
  const bool accepted = services_.tasks->TryRun(
      TaskPool::Kind::kPrompt, [self = shared_from_this(), task = std::move(task)] {
        {
          absl::MutexLock lock(&self->mutex_);
          if (self->cancelled_) return;
        }
        task();
      });
  if (accepted) return;
  // The pool was full: as many tasks waited as may wait.
  const auto n_waiting =
      static_cast<int64_t>(services_.tasks->max_num_waiting(TaskPool::Kind::kPrompt));
  Fail(QueueFull("tokenizer", "calls", n_waiting, n_waiting));
}

void GenerateCall::Admit(const v1::GenerateStreamRequest& request) { AdmitRequest(request); }
void GenerateCall::Admit(const v1::GenerateRequest& request) { AdmitRequest(request); }

template <typename Request>
void GenerateCall::AdmitRequest(const Request& request) {
  CallFacts facts;
  {
    absl::MutexLock lock(&mutex_);
    if (cancelled_) return;
    if (IsValidRequestId(request.request_id())) record_.request_id = request.request_id();
    facts = {record_.request_id, record_.arrival, record_.deadline};
  }
  std::variant<ValidatedRequest, ApiError> result = services_.validator->Validate(request, facts);
  if (auto* error = std::get_if<ApiError>(&result)) {
    Fail(std::move(*error));
    return;
  }
  auto& [spec, options] = std::get<ValidatedRequest>(result);
  {
    absl::MutexLock lock(&mutex_);
    record_.generation = RecordOf(spec);
    parts_.emplace(services_.validator->tokenizer(), options, record_.request_id,
                   services_.validator->resource_name(), spec.prompt_tokens.front(),
                   spec.n_candidates);
  }
  // Without the mutex: the engine thread may call OnDelta before Submit returns.
  auto submitted = services_.engine->Submit(std::move(spec), shared_from_this());
  if (auto* error = std::get_if<ApiError>(&submitted)) {
    Fail(std::move(*error));
  } else {
    SetHandle(std::get<uint64_t>(submitted));
  }
}

void GenerateCall::SetHandle(uint64_t handle) {
  EngineCall call = EngineCall::kNone;
  {
    absl::MutexLock lock(&mutex_);
    handle_ = handle;
    if (cancelled_) {
      call = EngineCall::kCancel;
    } else if (!sending_) {
      call = Advance();
    }
  }
  Tell(call);
}

void GenerateCall::Fail(ApiError error) {
  absl::MutexLock lock(&mutex_);
  engine_ended_ = true;
  error_ = std::move(error);
  Advance();
}

bool GenerateCall::OnDelta(OutputDelta delta) {
  absl::MutexLock lock(&mutex_);
  if (finished_ || cancelled_) return true;
  RecordDelta(delta, &record_);
  engine_ended_ = delta.last;
  parts_->Add(std::move(delta));
  if (stream_ == nullptr) {
    // A whole answer is bounded by kMaxMessageBytes, so that the engine is never paused for it.
    if (engine_ended_) KickPump();
    return true;
  }
  if (!sending_ && parts_->HasMessage()) KickPump();
  // Log-probabilities of the prompt cannot be sent before the first token; if they paused the
  // engine, that token would never come. Their number is bounded by the prompt. Once paused_ is
  // set, only Advance clears it, although a delta that was under way may still arrive.
  paused_ |= parts_->any_token() && parts_->n_pending_bytes() > kMaxPendingBytes;
  return !paused_;
}

void GenerateCall::OnError(ApiError error) {
  absl::MutexLock lock(&mutex_);
  engine_ended_ = true;
  if (finished_ || cancelled_) return;
  error_ = std::move(error);
  if (!sending_) KickPump();
}

void GenerateCall::KickPump() {
  if (kicked_) return;
  kicked_ = true;
  services_.pump->Kick(shared_from_this());
}

void GenerateCall::Pump() {
  EngineCall call = EngineCall::kNone;
  {
    absl::MutexLock lock(&mutex_);
    kicked_ = false;
    call = Advance();
  }
  Tell(call);
}

GenerateCall::EngineCall GenerateCall::Advance() {
  if (sending_ || finished_) return EngineCall::kNone;
  if (cancelled_) {
    Finish(std::nullopt);
    return EngineCall::kNone;
  }
  const bool is_stream = stream_ != nullptr;
  const bool has_message = parts_.has_value() && (is_stream ? parts_->HasMessage() : engine_ended_);
  // Tokens that were generated before the error still reach a stream's client.
  if (error_.has_value() && !(is_stream && has_message)) {
    Finish(error_);
    return EngineCall::kNone;
  }
  if (has_message) SendNext();
  // If the handle is not known yet, SetHandle calls Advance again.
  if (paused_ && handle_ != 0 && parts_->n_pending_bytes() < kMaxPendingBytes / 2) {
    paused_ = false;
    return EngineCall::kResume;
  }
  return EngineCall::kNone;
}

void GenerateCall::SendNext() {
  BeginOperation();
  sending_ = true;
  if (answer_ != nullptr) {
    v1::GenerateResponse answer;
    parts_->TakeResponse(&answer);
    finished_ = true;
    answer_->SendLast(answer);
    return;
  }
  message_.Clear();
  finished_ = parts_->TakeMessage(&message_);
  if (finished_) {
    stream_->SendLast(message_);
  } else {
    stream_->Send(message_);
  }
}

void GenerateCall::Finish(const std::optional<ApiError>& error) {
  finished_ = true;
  BeginOperation();
  if (!error.has_value()) {
    transport_->FinishUnheard();
    return;
  }
  record_.code = error->code;
  record_.reason = error->reason;
  transport_->FinishWithError(*error);
}

void GenerateCall::BeginOperation() {
  operation_start_ = SteadyNow();
  if (!has_told_id_) transport_->SetRequestId(record_.request_id);
  has_told_id_ = true;
}

void GenerateCall::Tell(EngineCall call) {
  if (call == EngineCall::kNone) return;
  uint64_t handle = 0;
  {
    absl::MutexLock lock(&mutex_);
    handle = handle_;
  }
  if (handle == 0) return;
  if (call == EngineCall::kResume) {
    services_.engine->Resume(handle);
  } else {
    services_.engine->Cancel(handle);
  }
}

GenerateCall::EngineCall GenerateCall::MarkCancelled() {
  cancelled_ = true;
  return engine_ended_ ? EngineCall::kNone : EngineCall::kCancel;
}

void GenerateCall::OnSendDone(bool ok) {
  EngineCall call = EngineCall::kNone;
  {
    absl::MutexLock lock(&mutex_);
    sending_ = false;
    if (!ok && !cancelled_) {
      RecordCancelled(&record_);
      call = MarkCancelled();
    }
    if (const EngineCall next = Advance(); next != EngineCall::kNone) call = next;
  }
  Tell(call);
}

void GenerateCall::OnCancel() {
  EngineCall call = EngineCall::kNone;
  {
    absl::MutexLock lock(&mutex_);
    // If CutIfStalled has ended the call, the record has the code of that already.
    if (!cancelled_) RecordCancelled(&record_);
    call = MarkCancelled();
    Advance();
  }
  Tell(call);
}

void GenerateCall::CutIfStalled(SteadyTime oldest) {
  EngineCall call = EngineCall::kNone;
  {
    absl::MutexLock lock(&mutex_);
    const bool under_way = transport_ != nullptr && (sending_ || finished_);
    if (!under_way || cancelled_ || operation_start_ > oldest) return;
    const ApiError error = SlowConsumer(parts_.has_value() ? parts_->n_pending_bytes() : 0,
                                        services_.slow_reader_timeout);
    record_.code = error.code;
    record_.reason = error.reason;
    transport_->Reset(error);
    call = MarkCancelled();
  }
  Tell(call);
}

void GenerateCall::OnDone() {
  {
    absl::MutexLock lock(&mutex_);
    transport_ = nullptr;
    services_.access_log->Record(record_, SteadyNow() - record_.arrival);
  }
  services_.pump->Remove(this);
  services_.n_live_calls->fetch_sub(1, std::memory_order_relaxed);
}

}  // namespace bora

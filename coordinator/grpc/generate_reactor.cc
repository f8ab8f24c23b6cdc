#include "coordinator/grpc/generate_reactor.h"

#include <grpc/grpc.h>
#include <grpcpp/impl/codegen/proto_utils.h>

#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/clock.h"
#include "bora/inference/v1/inference_service.pb.h"
#include "coordinator/grpc/api_error_status.h"
#include "coordinator/grpc/grpc_call.h"
#include "coordinator/grpc/request_parsing.h"

namespace bora {
namespace {

namespace v1 = inference::v1;

// The engine is held back while more than this waits for the client, and goes on below half of it.
constexpr int64_t kMaxPendingBytes = kMaxStreamMessageBytes;

void Serialize(const google::protobuf::MessageLite& message, grpc::ByteBuffer* bytes) {
  bytes->Clear();  // gRPC leaves the last message in it
  bool own_buffer = false;
  const grpc::Status status = grpc::SerializationTraits<google::protobuf::MessageLite>::Serialize(
      message, bytes, &own_buffer);
  CHECK(status.ok()) << status.error_message();
}

ApiError SlowConsumer(int64_t n_buffered_bytes, absl::Duration timeout) {
  ApiError error;
  error.code = absl::StatusCode::kResourceExhausted;
  error.reason = reason::kSlowConsumer;
  error.metadata = {{"bufferedBytes", absl::StrCat(n_buffered_bytes)},
                    {"timeoutMs", absl::StrCat(absl::ToInt64Milliseconds(timeout))}};
  error.message =
      absl::StrCat(error.reason, ": a message was not read for ", error.metadata["timeoutMs"],
                   " ms, with ", error.metadata["bufferedBytes"], " bytes behind it");
  return error;
}

// Parses the message and validates it; the request id of the message counts if it is valid.
template <typename Request>
std::variant<ValidatedRequest, ApiError> ParseAndValidate(const grpc::ByteBuffer& bytes,
                                                          const RequestValidator& validator,
                                                          CallFacts* call) {
  Request request;
  if (std::optional<ApiError> error = ParseRequest(bytes, &request)) return *std::move(error);
  if (IsValidRequestId(request.request_id())) call->request_id = request.request_id();
  return validator.Validate(request, *call);
}

GenerationRecord RecordOf(const RequestSpec& spec) {
  GenerationRecord record;
  record.tenant = spec.tenant;
  record.priority = spec.priority;
  record.n_candidates = spec.n_candidates;
  record.seed = spec.sampling.seed;
  record.n_prompt_tokens = static_cast<int64_t>(spec.prompt_tokens.size());
  return record;
}

}  // namespace

GenerateReactor::GenerateReactor(Kind kind, const char* method,
                                 grpc::CallbackServerContext* context, const CallServices& services)
    : kind_(kind),
      services_(services),
      context_(context),
      record_(MakeCallRecord(method, *context)) {
  services_.n_live_calls->fetch_add(1, std::memory_order_relaxed);
}

void GenerateReactor::Start(const grpc::CallbackServerContext& context,
                            const grpc::ByteBuffer& request) {
  self_ = shared_from_this();
  services_.pump->Add(self_);
  if (std::optional<ApiError> error = CheckMetadata(context)) {
    Fail(*std::move(error));
    return;
  }
  if (!TakesLong(request)) {
    Admit(request);
    return;
  }
  const bool accepted = services_.tasks->TryRun(
      TaskPool::Kind::kPrompt,
      [self = self_, request = grpc::ByteBuffer(request)] { self->Admit(request); });
  if (!accepted) {
    const int64_t n_waiting =
        static_cast<int64_t>(services_.tasks->max_num_waiting(TaskPool::Kind::kPrompt));
    Fail(QueueFull("tokenizer", "calls", n_waiting, n_waiting));
  }
}

void GenerateReactor::Admit(const grpc::ByteBuffer& request) {
  CallFacts call;
  {
    absl::MutexLock lock(&mutex_);
    if (cancelled_) return;
    call = {record_.request_id, record_.arrival, record_.deadline};
  }
  std::variant<ValidatedRequest, ApiError> result = Validate(request, &call);
  {
    absl::MutexLock lock(&mutex_);
    record_.request_id = call.request_id;
    if (auto* valid = std::get_if<ValidatedRequest>(&result)) {
      record_.generation = RecordOf(valid->spec);
      buffer_.emplace(services_.validator->tokenizer(), valid->options, record_.request_id,
                      services_.validator->resource_name(), valid->spec.prompt_tokens.front(),
                      valid->spec.n_candidates);
    }
  }
  if (auto* error = std::get_if<ApiError>(&result)) {
    Fail(std::move(*error));
    return;
  }
  auto submitted = services_.engine->Submit(std::move(std::get<ValidatedRequest>(result).spec),
                                            shared_from_this());
  if (auto* error = std::get_if<ApiError>(&submitted)) {
    Fail(std::move(*error));
  } else {
    SetHandle(std::get<uint64_t>(submitted));
  }
}

void GenerateReactor::SetHandle(uint64_t handle) {
  EngineCall call = EngineCall::kNone;
  {
    absl::MutexLock lock(&mutex_);
    handle_ = handle;
    if (cancelled_) {
      call = EngineCall::kCancel;
    } else if (!writing_) {
      call = Advance();
    }
  }
  Tell(call);
}

void GenerateReactor::Fail(ApiError error) {
  absl::MutexLock lock(&mutex_);
  engine_ended_ = true;
  error_ = std::move(error);
  Advance();
}

bool GenerateReactor::OnDelta(OutputDelta delta) {
  absl::MutexLock lock(&mutex_);
  if (finished_ || cancelled_) return true;
  GenerationRecord& generation = *record_.generation;
  if (generation.n_output_tokens == 0 && !delta.tokens.empty()) {
    generation.first_token = SteadyNow() - record_.arrival;
  }
  generation.n_output_tokens += static_cast<int64_t>(delta.tokens.size());
  if (delta.finish.has_value()) {
    generation.finishes.push_back(delta.finish->kind);
    generation.n_cached_prompt_tokens = delta.finish->n_cached_prompt_tokens;
    generation.timing = delta.finish->timing;
  }
  engine_ended_ = delta.last;
  buffer_->Add(std::move(delta));
  if (kind_ == Kind::kWhole) {
    if (engine_ended_) KickPump();
    return true;
  }
  if (!writing_ && buffer_->HasMessage()) KickPump();
  // What comes before the first token cannot be sent yet, and its size is bounded by the prompt's.
  // Once paused, it stays so until Advance resumes the engine, whatever was still under way.
  paused_ |= buffer_->any_token() && buffer_->n_pending_bytes() > kMaxPendingBytes;
  return !paused_;
}

void GenerateReactor::OnError(ApiError error) {
  absl::MutexLock lock(&mutex_);
  engine_ended_ = true;
  if (finished_ || cancelled_) return;
  error_ = std::move(error);
  if (!writing_) KickPump();
}

void GenerateReactor::KickPump() {
  if (kicked_) return;
  kicked_ = true;
  services_.pump->Kick(shared_from_this());
}

void GenerateReactor::Pump() {
  EngineCall call = EngineCall::kNone;
  {
    absl::MutexLock lock(&mutex_);
    kicked_ = false;
    call = Advance();
  }
  Tell(call);
}

GenerateReactor::EngineCall GenerateReactor::Advance() {
  if (writing_ || finished_) return EngineCall::kNone;
  if (cancelled_) {
    FinishCall(std::nullopt);
    return EngineCall::kNone;
  }
  const bool has_message =
      buffer_.has_value() && (kind_ == Kind::kStream ? buffer_->HasMessage() : engine_ended_);
  // Tokens that were made before the error still reach a stream's client.
  if (error_.has_value() && (kind_ == Kind::kWhole || !has_message)) {
    FinishCall(error_);
    return EngineCall::kNone;
  }
  if (has_message) {
    operation_start_ = SteadyNow();
    AddTrailer();
    writing_ = true;
    finished_ = WriteNext(&*buffer_);
  }
  // Without a handle SetHandle will come here again.
  if (paused_ && handle_ != 0 && buffer_->n_pending_bytes() < kMaxPendingBytes / 2) {
    paused_ = false;
    return EngineCall::kResume;
  }
  return EngineCall::kNone;
}

void GenerateReactor::FinishCall(const std::optional<ApiError>& error) {
  finished_ = true;
  operation_start_ = SteadyNow();
  AddTrailer();
  if (!error.has_value()) {
    FinishWith(grpc::Status::CANCELLED);  // nobody hears it
    return;
  }
  record_.code = error->code;
  record_.reason = error->reason;
  AddErrorTrailers(*error, context_);
  FinishWith(ToGrpcStatus(*error, record_.request_id));
}

void GenerateReactor::AddTrailer() {
  if (!has_trailer_) context_->AddTrailingMetadata("x-request-id", record_.request_id);
  has_trailer_ = true;
}

void GenerateReactor::Tell(EngineCall call) {
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

void GenerateReactor::HandleWriteDone(bool ok) {
  EngineCall call = EngineCall::kNone;
  {
    absl::MutexLock lock(&mutex_);
    writing_ = false;
    if (!ok && !cancelled_) {
      cancelled_ = true;
      RecordCancelled(&record_);
      if (!engine_ended_) call = EngineCall::kCancel;
    }
    if (const EngineCall next = Advance(); next != EngineCall::kNone) call = next;
  }
  Tell(call);
}

void GenerateReactor::HandleCancel() {
  EngineCall call = EngineCall::kNone;
  {
    absl::MutexLock lock(&mutex_);
    // After a cut the record already has its reason.
    if (!cancelled_) RecordCancelled(&record_);
    cancelled_ = true;
    if (!engine_ended_) call = EngineCall::kCancel;
    Advance();
  }
  Tell(call);
}

void GenerateReactor::CutIfStalled(SteadyTime oldest) {
  EngineCall call = EngineCall::kNone;
  {
    absl::MutexLock lock(&mutex_);
    const bool under_way = context_ != nullptr && (writing_ || finished_);
    if (!under_way || cancelled_ || operation_start_ > oldest) return;
    const ApiError error = SlowConsumer(buffer_.has_value() ? buffer_->n_pending_bytes() : 0,
                                        services_.slow_reader_timeout);
    cancelled_ = true;
    record_.code = error.code;
    record_.reason = error.reason;
    // A status sent with Finish would wait behind the write that does not end. This resets the
    // stream, with code and message but without details.
    grpc_call_cancel_with_status(context_->c_call(),
                                 static_cast<grpc_status_code>(ToGrpcCode(error.code)),
                                 error.message.c_str(), nullptr);
    if (!engine_ended_) call = EngineCall::kCancel;
  }
  Tell(call);
}

void GenerateReactor::HandleDone() {
  {
    absl::MutexLock lock(&mutex_);
    context_ = nullptr;
    services_.access_log->Record(record_, SteadyNow() - record_.arrival);
  }
  services_.pump->Remove(this);
  services_.n_live_calls->fetch_sub(1, std::memory_order_relaxed);
  const std::shared_ptr<GenerateReactor> self = std::move(self_);
}

namespace {

class WholeReactor final : public GenerateReactor, public grpc::ServerUnaryReactor {
 public:
  WholeReactor(grpc::CallbackServerContext* context, grpc::ByteBuffer* response,
               const CallServices& services)
      : GenerateReactor(Kind::kWhole, "Generate", context, services), response_(response) {}

  void OnCancel() override { HandleCancel(); }
  void OnDone() override { HandleDone(); }

 private:
  std::variant<ValidatedRequest, ApiError> Validate(const grpc::ByteBuffer& request,
                                                    CallFacts* call) override {
    return ParseAndValidate<v1::GenerateRequest>(request, *services().validator, call);
  }
  bool WriteNext(AnswerParts* buffer) override {
    v1::GenerateResponse message;
    buffer->TakeResponse(&message);
    Serialize(message, response_);
    Finish(grpc::Status::OK);
    return true;
  }
  void FinishWith(const grpc::Status& status) override { Finish(status); }

  grpc::ByteBuffer* const response_;
};

class StreamReactor final : public GenerateReactor,
                            public grpc::ServerWriteReactor<grpc::ByteBuffer> {
 public:
  StreamReactor(grpc::CallbackServerContext* context, const CallServices& services)
      : GenerateReactor(Kind::kStream, "GenerateStream", context, services) {}

  void OnWriteDone(bool ok) override { HandleWriteDone(ok); }
  void OnCancel() override { HandleCancel(); }
  void OnDone() override { HandleDone(); }

 private:
  std::variant<ValidatedRequest, ApiError> Validate(const grpc::ByteBuffer& request,
                                                    CallFacts* call) override {
    return ParseAndValidate<v1::GenerateStreamRequest>(request, *services().validator, call);
  }
  bool WriteNext(AnswerParts* buffer) override {
    message_.Clear();  // keeps its memory for the next
    const bool last = buffer->TakeMessage(&message_);
    Serialize(message_, &bytes_);
    if (last) {
      StartWriteAndFinish(&bytes_, grpc::WriteOptions(), grpc::Status::OK);
    } else {
      StartWrite(&bytes_);
    }
    return last;
  }
  void FinishWith(const grpc::Status& status) override { Finish(status); }

  v1::GenerateStreamResponse message_;
  grpc::ByteBuffer bytes_;  // until its write is done
};

}  // namespace

grpc::ServerUnaryReactor* StartGenerate(grpc::CallbackServerContext* context,
                                        const grpc::ByteBuffer& request, grpc::ByteBuffer* response,
                                        const CallServices& services) {
  auto reactor = std::make_shared<WholeReactor>(context, response, services);
  reactor->Start(*context, request);
  return reactor.get();
}

grpc::ServerWriteReactor<grpc::ByteBuffer>* StartGenerateStream(
    grpc::CallbackServerContext* context, const grpc::ByteBuffer& request,
    const CallServices& services) {
  auto reactor = std::make_shared<StreamReactor>(context, services);
  reactor->Start(*context, request);
  return reactor.get();
}

}  // namespace bora

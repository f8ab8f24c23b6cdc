// The reactor of unary methods that are a function from request to answer: all unary methods except
// Generate.
#pragma once

#include <google/protobuf/message.h>
#include <grpcpp/server_context.h>
#include <grpcpp/support/byte_buffer.h>
#include <grpcpp/support/server_callback.h>

#include <functional>
#include <memory>
#include <optional>
#include <utility>

#include "base/clock.h"
#include "coordinator/api/api_errors.h"
#include "coordinator/api/api_limits.h"
#include "coordinator/call/access_log.h"
#include "coordinator/call/call_record.h"
#include "coordinator/call/call_services.h"
#include "coordinator/call/task_pool.h"
#include "coordinator/grpc/api_error_status.h"
#include "coordinator/grpc/grpc_call.h"
#include "coordinator/grpc/request_parsing.h"

namespace bora {

// Carries out one call. Run is called on gRPC's thread or, for a request that takes long, on a
// thread of the task pool. gRPC keeps context and response until OnDone, which comes only after Run
// or Fail has called Finish. Deletes itself in OnDone.
template <typename Request, typename Response>
class UnaryReactor final : public grpc::ServerUnaryReactor {
 public:
  // Fills the answer, or returns an error. If the call is cancelled meanwhile (by its client or its
  // deadline), the answer is not sent, so that the handler may return early. Called once at most,
  // on the thread of Run.
  using Handler = std::function<std::optional<ApiError>(const Request&, Response*)>;

  UnaryReactor(const char* method, grpc::CallbackServerContext* context, grpc::ByteBuffer* response,
               const CallServices& services, Handler handler)
      : context_(context),
        response_(response),
        services_(services),
        handler_(std::move(handler)),
        record_(MakeCallRecord(method, *context)) {
    services_.n_live_calls->fetch_add(1, std::memory_order_relaxed);
  }

  // Runs the call now or later. `bytes`, the request, need only live during this function.
  void Start(const grpc::ByteBuffer& bytes) {
    context_->AddTrailingMetadata("x-request-id", record_.request_id);
    if (const std::optional<ApiError> error = CheckMetadata(*context_)) {
      Fail(*error);
    } else if (!TakesLong(bytes)) {
      Run(bytes);
    } else if (!services_.tasks->TryRun(TaskPool::Kind::kText,
                                        [this, bytes = grpc::ByteBuffer(bytes)] { Run(bytes); })) {
      const int64_t n_waiting =
          static_cast<int64_t>(services_.tasks->max_num_waiting(TaskPool::Kind::kText));
      Fail(QueueFull("tokenizer", "calls", n_waiting, n_waiting));
    }
  }

  // Nothing to do: Run asks the context whether the call is cancelled, and calls Finish in any
  // case.
  void OnCancel() override {}
  void OnDone() override {
    services_.access_log->Record(record_, SteadyNow() - record_.arrival);
    services_.n_live_calls->fetch_sub(1, std::memory_order_relaxed);
    delete this;
  }

 private:
  // Parses the request, calls the handler and ends the call.
  void Run(const grpc::ByteBuffer& bytes) {
    Request request;
    Response answer;
    std::optional<ApiError> error;
    // The client may have given up while the request waited for a thread of the pool.
    if (!context_->IsCancelled()) error = ParseRequest(bytes, &request);
    if (!error.has_value() && !context_->IsCancelled()) error = handler_(request, &answer);
    if (context_->IsCancelled()) {
      RecordCancelled(&record_);
      Finish(grpc::Status::CANCELLED);  // the client has stopped listening
      return;
    }
    if (!error.has_value() && answer.ByteSizeLong() > kMaxMessageBytes) {
      error = AnswerTooLarge(static_cast<int64_t>(answer.ByteSizeLong()));
    }
    if (error.has_value()) {
      Fail(*error);
      return;
    }
    Serialize(answer, response_);
    Finish(grpc::Status::OK);
  }

  void Fail(const ApiError& error) {
    record_.code = error.code;
    record_.reason = error.reason;
    AddErrorTrailers(error, context_);
    Finish(ToGrpcStatus(error, record_.request_id));
  }

  grpc::CallbackServerContext* const context_;
  grpc::ByteBuffer* const response_;
  const CallServices& services_;
  const Handler handler_;
  CallRecord record_;
};

// Starts a call that `handler` answers, and returns its reactor. `request` need only live during
// this function; `context`, `response` and `services` until the end of the call.
template <typename Request, typename Response>
grpc::ServerUnaryReactor* RunUnary(const char* method, grpc::CallbackServerContext* context,
                                   const grpc::ByteBuffer* request, grpc::ByteBuffer* response,
                                   const CallServices& services,
                                   typename UnaryReactor<Request, Response>::Handler handler) {
  auto* reactor =
      new UnaryReactor<Request, Response>(method, context, response, services, std::move(handler));
  reactor->Start(*request);
  return reactor;
}

}  // namespace bora

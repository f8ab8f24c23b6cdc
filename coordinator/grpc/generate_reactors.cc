#include "coordinator/grpc/generate_reactors.h"

#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "bora/inference/v1/inference_service.pb.h"
#include "coordinator/call/call_transport.h"
#include "coordinator/call/generate_call.h"
#include "coordinator/grpc/api_error_status.h"
#include "coordinator/grpc/grpc_call.h"
#include "coordinator/grpc/request_parsing.h"

namespace bora {
namespace {

namespace v1 = inference::v1;

// Parses the request and admits it to the engine, or ends the call with the error.
template <typename Request>
void ParseAndAdmit(const grpc::ByteBuffer& bytes, GenerateCall* call) {
  Request request;
  if (std::optional<ApiError> error = ParseRequest(bytes, &request)) {
    call->Fail(*std::move(error));
  } else {
    call->Admit(request);
  }
}

// The common base of both reactors, which are a reactor of gRPC and the transport of a
// GenerateCall. A transport must not call back from inside an operation; that holds, as gRPC never
// runs a reactor's callback inside the function that starts the operation. Deletes itself in
// OnDone.
template <typename GrpcReactor, typename Transport>
class GenerateReactor : public GrpcReactor, public Transport {
 public:
  GenerateReactor(const char* method, grpc::CallbackServerContext* context,
                  const CallServices& services)
      : context_(context),
        call_(std::make_shared<GenerateCall>(MakeCallRecord(method, *context),
                                             static_cast<Transport*>(this), services)) {}

  template <typename Request>
  void Start(const grpc::ByteBuffer& request) {
    call_->Start();
    if (std::optional<ApiError> error = CheckMetadata(*context_)) {
      call_->Fail(*std::move(error));
    } else if (TakesLong(request)) {
      call_->RunLater([call = call_, request = grpc::ByteBuffer(request)] {
        ParseAndAdmit<Request>(request, call.get());
      });
    } else {
      ParseAndAdmit<Request>(request, call_.get());
    }
  }

  void OnCancel() override { call_->OnCancel(); }
  void OnDone() override {
    call_->OnDone();
    delete this;
  }

  void SetRequestId(const std::string& request_id) override {
    context_->AddTrailingMetadata("x-request-id", request_id);
    request_id_ = request_id;
  }
  void FinishWithError(const ApiError& error) override {
    AddErrorTrailers(error, context_);
    this->Finish(ToGrpcStatus(error, request_id_));
  }
  void FinishUnheard() override { this->Finish(grpc::Status::CANCELLED); }
  void Reset(const ApiError& error) override { ResetCall(error, context_); }

 protected:
  GenerateCall& call() { return *call_; }

 private:
  grpc::CallbackServerContext* const context_;
  const std::shared_ptr<GenerateCall> call_;
  std::string request_id_;
};

// Carries the one answer of Generate.
class AnswerReactor final : public GenerateReactor<grpc::ServerUnaryReactor, AnswerTransport> {
 public:
  AnswerReactor(grpc::CallbackServerContext* context, grpc::ByteBuffer* response,
                const CallServices& services)
      : GenerateReactor("Generate", context, services), response_(response) {}

  void SendLast(const v1::GenerateResponse& answer) override {
    Serialize(answer, response_);
    Finish(grpc::Status::OK);
  }

 private:
  grpc::ByteBuffer* const response_;
};

// Carries the messages of GenerateStream.
class StreamReactor final
    : public GenerateReactor<grpc::ServerWriteReactor<grpc::ByteBuffer>, StreamTransport> {
 public:
  StreamReactor(grpc::CallbackServerContext* context, const CallServices& services)
      : GenerateReactor("GenerateStream", context, services) {}

  void OnWriteDone(bool ok) override { call().OnSendDone(ok); }

  void Send(const v1::GenerateStreamResponse& message) override {
    Serialize(message, &bytes_);
    StartWrite(&bytes_);
  }
  void SendLast(const v1::GenerateStreamResponse& message) override {
    Serialize(message, &bytes_);
    StartWriteAndFinish(&bytes_, grpc::WriteOptions(), grpc::Status::OK);
  }

 private:
  grpc::ByteBuffer bytes_;  // the message of the write under way; gRPC reads it until OnWriteDone
};

}  // namespace

grpc::ServerUnaryReactor* StartGenerate(grpc::CallbackServerContext* context,
                                        const grpc::ByteBuffer& request, grpc::ByteBuffer* response,
                                        const CallServices& services) {
  auto* reactor = new AnswerReactor(context, response, services);
  reactor->Start<v1::GenerateRequest>(request);
  return reactor;
}

grpc::ServerWriteReactor<grpc::ByteBuffer>* StartGenerateStream(
    grpc::CallbackServerContext* context, const grpc::ByteBuffer& request,
    const CallServices& services) {
  auto* reactor = new StreamReactor(context, services);
  reactor->Start<v1::GenerateStreamRequest>(request);
  return reactor;
}

}  // namespace bora

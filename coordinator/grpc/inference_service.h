// bora.inference.v1.InferenceService: generation by a Generator, and the tokenizer's methods.
#pragma once

#include <grpcpp/server_context.h>
#include <grpcpp/support/byte_buffer.h>
#include <grpcpp/support/server_callback.h>

#include "bora/inference/v1/inference_service.grpc.pb.h"
#include "coordinator/call/call_services.h"

namespace bora {

// The methods take the requests' raw bytes; request_parsing.h says why.
using RawInferenceService = inference::v1::InferenceService::WithRawCallbackMethod_Generate<
    inference::v1::InferenceService::WithRawCallbackMethod_GenerateStream<
        inference::v1::InferenceService::WithRawCallbackMethod_Tokenize<
            inference::v1::InferenceService::WithRawCallbackMethod_Detokenize<
                inference::v1::InferenceService::Service>>>>;

// Thread-safe. gRPC's threads call the methods, each of which starts a call and returns at once;
// `request` need only live during the method.
class InferenceServiceImpl final : public RawInferenceService {
 public:
  // `services` outlives the service.
  explicit InferenceServiceImpl(const CallServices& services) : services_(services) {}

  grpc::ServerUnaryReactor* Generate(grpc::CallbackServerContext* context,
                                     const grpc::ByteBuffer* request,
                                     grpc::ByteBuffer* response) override;
  grpc::ServerWriteReactor<grpc::ByteBuffer>* GenerateStream(
      grpc::CallbackServerContext* context, const grpc::ByteBuffer* request) override;
  grpc::ServerUnaryReactor* Tokenize(grpc::CallbackServerContext* context,
                                     const grpc::ByteBuffer* request,
                                     grpc::ByteBuffer* response) override;
  grpc::ServerUnaryReactor* Detokenize(grpc::CallbackServerContext* context,
                                       const grpc::ByteBuffer* request,
                                       grpc::ByteBuffer* response) override;

 private:
  const CallServices& services_;
};

}  // namespace bora

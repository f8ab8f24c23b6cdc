// bora.inference.v1.ModelService: reports facts that are fixed at the start, and the engine's
// snapshot.
#pragma once

#include <grpcpp/server_context.h>
#include <grpcpp/support/byte_buffer.h>
#include <grpcpp/support/server_callback.h>

#include "base/clock.h"
#include "bora/inference/v1/model_service.grpc.pb.h"
#include "coordinator/api/model_facts.h"
#include "coordinator/api/server_snapshot.h"
#include "coordinator/call/call_services.h"
#include "model/text/tokenizer.h"

namespace bora {

// The model as ListModels and GetModel report it. `weights_digest`: ServerSnapshot::weights_digest.
inference::v1::Model MakeModel(const ModelFacts& model, const Tokenizer& tokenizer,
                               const std::string& weights_digest);

// The answer of GetServerInfo at the time `now`, for a server that was started at `start`.
inference::v1::ServerInfo MakeServerInfo(const ServerFacts& facts, const ServerSnapshot& snapshot,
                                         SteadyTime start, SteadyTime now);

// The methods take the requests' raw bytes; request_parsing.h says why.
using RawModelService = inference::v1::ModelService::WithRawCallbackMethod_ListModels<
    inference::v1::ModelService::WithRawCallbackMethod_GetModel<
        inference::v1::ModelService::WithRawCallbackMethod_GetServerInfo<
            inference::v1::ModelService::Service>>>;

// Thread-safe. gRPC's threads call the methods.
class ModelServiceImpl final : public RawModelService {
 public:
  // `facts` and `services` outlive the service. The server's uptime counts from here.
  ModelServiceImpl(const ServerFacts& facts, const CallServices& services);

  grpc::ServerUnaryReactor* ListModels(grpc::CallbackServerContext* context,
                                       const grpc::ByteBuffer* request,
                                       grpc::ByteBuffer* response) override;
  grpc::ServerUnaryReactor* GetModel(grpc::CallbackServerContext* context,
                                     const grpc::ByteBuffer* request,
                                     grpc::ByteBuffer* response) override;
  grpc::ServerUnaryReactor* GetServerInfo(grpc::CallbackServerContext* context,
                                          const grpc::ByteBuffer* request,
                                          grpc::ByteBuffer* response) override;

 private:
  // The served model, with the digest of the weights that the group has now.
  inference::v1::Model CurrentModel() const;

  const ServerFacts& facts_;
  const CallServices& services_;
  const SteadyTime start_;
};

}  // namespace bora

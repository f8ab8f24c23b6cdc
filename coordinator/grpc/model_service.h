// bora.inference.v1.ModelService: facts that were known at start, and the engine's snapshot.
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

// What ListModels and GetModel answer. `weights_digest` is empty before a worker has loaded.
inference::v1::Model MakeModel(const ModelFacts& model, const Tokenizer& tokenizer,
                               const std::string& weights_digest);

// What GetServerInfo answers at the time `now`, for a server that runs since `start`.
inference::v1::ServerInfo MakeServerInfo(const ServerFacts& facts, const ServerSnapshot& snapshot,
                                         SteadyTime start, SteadyTime now);

using RawModelService = inference::v1::ModelService::WithRawCallbackMethod_ListModels<
    inference::v1::ModelService::WithRawCallbackMethod_GetModel<
        inference::v1::ModelService::WithRawCallbackMethod_GetServerInfo<
            inference::v1::ModelService::Service>>>;

// Thread-safe. Called by gRPC's threads.
class ModelServiceImpl final : public RawModelService {
 public:
  // Both outlive this.
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
  inference::v1::Model CurrentModel() const;

  const ServerFacts& facts_;
  const CallServices& services_;
  const SteadyTime start_;
};

}  // namespace bora

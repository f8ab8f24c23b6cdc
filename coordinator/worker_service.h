// The coordinator's end of the worker streams: hands what workers say to the engine and what the
// cluster says to the workers.
#pragma once

#include <atomic>

#include "bora/worker/v1alpha1/worker_service.grpc.pb.h"
#include "coordinator/engine.h"

namespace bora {

// Thread-safe. Outlives the server that it is registered with.
class WorkerServiceImpl final : public worker::v1alpha1::WorkerService::CallbackService {
 public:
  // `engine` outlives the service.
  explicit WorkerServiceImpl(Engine* engine) : engine_(engine) {}

  grpc::ServerBidiReactor<worker::v1alpha1::WorkerMessage, worker::v1alpha1::CoordinatorMessage>*
  Attach(grpc::CallbackServerContext* context) override;

  // Streams that are open, attached or not.
  int n_streams() const { return n_streams_; }

 private:
  class Stream;

  Engine* const engine_;
  std::atomic<int> n_streams_{0};
  std::atomic<int> n_strangers_{0};  // streams that have not said hello
};

}  // namespace bora

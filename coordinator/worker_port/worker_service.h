// The coordinator's end of the worker streams: takes messages of workers to the engine and messages
// of the cluster to the workers. No message reaches the engine before the worker has proved that it
// has the credential.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "base/log_rate.h"
#include "bora/worker/v1alpha1/worker_service.grpc.pb.h"
#include "coordinator/cluster/worker_events.h"
#include "coordinator/worker_port/strangers.h"
#include "coordinator/worker_port/worker_outbox.h"
#include "model/protocol/worker_codec.h"

namespace bora {

struct WorkerServiceOptions {
  std::string credential;  // empty: workers must have none
  // Bounds on the lists of a worker's messages; a message with longer ones ends its stream.
  WorkerMessageLimits limits;
};

// Messages are read as bytes, so that their size is checked before they are parsed.
using RawWorkerService = worker::v1alpha1::WorkerService::WithRawCallbackMethod_Attach<
    worker::v1alpha1::WorkerService::Service>;

// Thread-safe. Outlives the server that it is registered with.
class WorkerServiceImpl final : public RawWorkerService {
 public:
  // `events` outlives the service.
  WorkerServiceImpl(WorkerServiceOptions options, WorkerEvents* events);

  grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>* Attach(
      grpc::CallbackServerContext* context) override;

  // Nothing is written to workers any more.
  void StopOutbox() { outbox_->Stop(); }

 private:
  class Reactor;

  // Counts the stream as a stranger until it is removed. If there are too many strangers, another
  // one is closed.
  void AddStranger(const std::shared_ptr<WorkerStream>& stream, const std::string& peer);
  void RemoveStranger(const std::shared_ptr<WorkerStream>& stream);

  const WorkerServiceOptions options_;
  WorkerEvents* const events_;
  const std::shared_ptr<WorkerOutbox> outbox_;  // of all streams, which may outlive the service
  LogRate log_rate_{absl::Milliseconds(100)};
  absl::Mutex mutex_;
  Strangers<std::shared_ptr<WorkerStream>> strangers_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace bora

// The coordinator's end of the worker streams: passes messages of workers to the engine and
// messages of the cluster to the workers. No message reaches the engine before the worker has
// proved that it knows the credential.
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
  std::string credential;  // the secret that workers must know; empty: workers must have none
  // Bounds on the lengths of lists in a worker's messages. A message with a longer list ends its
  // stream.
  WorkerMessageLimits limits;
};

// Messages are read as bytes, so that their size is checked before they are parsed.
using RawWorkerService = worker::v1alpha1::WorkerService::WithRawCallbackMethod_Attach<
    worker::v1alpha1::WorkerService::Service>;

// Thread-safe. Outlives the server that it is registered with.
class WorkerServiceImpl final : public RawWorkerService {
 public:
  // `events` outlives the service and is called on gRPC's threads.
  WorkerServiceImpl(WorkerServiceOptions options, WorkerEvents* events);

  // Begins a stream with a worker: authentication, then hello, then messages in both directions.
  grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>* Attach(
      grpc::CallbackServerContext* context) override;

  // Writes the messages that wait, and drops all later ones. Blocks until that is done.
  void StopOutbox() { outbox_->Stop(); }

 private:
  class Reactor;

  // Counts the stream as a stranger until RemoveStranger. If there are too many strangers then, one
  // of them is closed, see Strangers::Add. `peer`: the stream's address in gRPC's form.
  void AddStranger(const std::shared_ptr<WorkerStream>& stream, const std::string& peer);
  void RemoveStranger(const std::shared_ptr<WorkerStream>& stream);

  const WorkerServiceOptions options_;
  WorkerEvents* const events_;
  // The outbox of all streams. Shared, since a stream's writer may outlive the service.
  const std::shared_ptr<WorkerOutbox> outbox_;
  LogRate log_rate_{absl::Milliseconds(100)};  // of lines about strangers
  absl::Mutex mutex_;
  Strangers<std::shared_ptr<WorkerStream>> strangers_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace bora

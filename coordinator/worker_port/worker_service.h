// The coordinator's end of the worker streams: hands what workers say to the engine and what the
// cluster says to the workers. Nothing reaches the engine before the worker has proved that it has
// the credential.
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
  // What a message of a worker has at most; larger ones are refused.
  WorkerMessageLimits limits;
};

// Messages are read as bytes, so that their size is looked at before they are parsed.
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

  // The stream is a stranger until it is removed; another one may have to go for it.
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

// The listener that workers connect to. Its settings bound the memory and the descriptors that a
// peer without the credential can take.
#pragma once

#include <grpcpp/server.h>

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "base/clock.h"
#include "coordinator/grpc/unknown_methods.h"
#include "coordinator/worker_port/worker_service.h"

namespace bora {

// Thread-safe after Start.
class WorkerServer {
 public:
  // Listens on `address`, "host:port", where port 0 means any free port. `events` must outlive the
  // server; it is called on gRPC's threads. UNAVAILABLE if the address cannot be bound.
  static absl::StatusOr<std::unique_ptr<WorkerServer>> Start(const std::string& address,
                                                             WorkerServiceOptions options,
                                                             WorkerEvents* events);
  // Shuts down without waiting for streams.
  ~WorkerServer();

  // The port that was bound.
  int port() const { return port_; }
  // Refuses new streams, waits until `deadline` for the open streams to end and then cancels them.
  // Returns when all streams have ended and no message is written any more. A later call has
  // nothing left to do.
  void Shutdown(SteadyTime deadline);

 private:
  WorkerServer(WorkerServiceOptions options, WorkerEvents* events)
      : service_(std::move(options), events), unknown_methods_(kClientMethods, kOnWorkerPort) {}

  WorkerServiceImpl service_;
  UnknownMethods unknown_methods_;
  std::unique_ptr<grpc::Server> server_;
  int port_ = 0;
};

}  // namespace bora

// The listener that workers connect to, with settings that bound the memory and descriptors that a
// stranger can take.
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
  // Listens on `address`, host:port with port 0 = any. `events` outlives the server. UNAVAILABLE:
  // the address cannot be had.
  static absl::StatusOr<std::unique_ptr<WorkerServer>> Start(const std::string& address,
                                                             WorkerServiceOptions options,
                                                             WorkerEvents* events);
  ~WorkerServer();

  // The port that was bound.
  int port() const { return port_; }
  // Refuses new streams, waits until `deadline` for those there are, then cancels them. Later calls
  // do nothing.
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

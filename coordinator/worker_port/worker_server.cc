#include "coordinator/worker_port/worker_server.h"

#include <grpcpp/grpcpp.h>

#include <algorithm>
#include <cstdint>
#include <limits>
#include <utility>

#include "base/host/listen_check.h"

namespace bora {
namespace {

// A worker has one stream on its connection, for the connection's whole life.
constexpr int kMaxStreamsPerConnection = 4;
// How long a connection may take for its handshake, and how long it may be without a stream.
constexpr int kMaxSilenceMs = 5000;

}  // namespace

absl::StatusOr<std::unique_ptr<WorkerServer>> WorkerServer::Start(const std::string& address,
                                                                  WorkerServiceOptions options,
                                                                  WorkerEvents* events) {
  const int64_t max_bytes = MaxWorkerMessageBytes(options.limits);
  std::unique_ptr<WorkerServer> self(new WorkerServer(std::move(options), events));
  grpc::ServerBuilder builder;
  builder.AddListeningPort(address, grpc::InsecureServerCredentials(), &self->port_);
  builder.RegisterService(&self->service_);
  builder.RegisterCallbackGenericService(&self->unknown_methods_);
  builder.SetMaxReceiveMessageSize(
      static_cast<int>(std::min<int64_t>(max_bytes, std::numeric_limits<int>::max())));
  // Two coordinators must not share a port without knowing it.
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
  // A connection without a handshake or without a stream costs a descriptor for this long.
  builder.AddChannelArgument(GRPC_ARG_SERVER_HANDSHAKE_TIMEOUT_MS, kMaxSilenceMs);
  builder.AddChannelArgument(GRPC_ARG_MAX_CONNECTION_IDLE_MS, kMaxSilenceMs);
  builder.AddChannelArgument(GRPC_ARG_MAX_CONCURRENT_STREAMS, kMaxStreamsPerConnection);
  builder.AddChannelArgument(GRPC_ARG_MAX_METADATA_SIZE, 8 << 10);
  // Without bandwidth probes gRPC's flow control keeps the initial window: a stream may send 64 KiB
  // before it is read. An estimate of a fast link would raise that.
  builder.AddChannelArgument(GRPC_ARG_HTTP2_BDP_PROBE, 0);
  self->server_ = builder.BuildAndStart();
  if (self->server_ == nullptr || self->port_ == 0) {
    return WhyNotListening(address);
  }
  return self;
}

WorkerServer::~WorkerServer() { Shutdown(SteadyNow()); }

void WorkerServer::Shutdown(SteadyTime deadline) {
  if (server_ == nullptr) return;
  server_->Shutdown(ToSystemTime(deadline));
  server_->Wait();
  service_.StopOutbox();
}

}  // namespace bora

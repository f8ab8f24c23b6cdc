// The listener that clients connect to: InferenceService, ModelService, health checks and
// reflection, with settings that bound the memory, descriptors and threads that clients can take.
#pragma once

#include <grpcpp/server.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "base/clock.h"
#include "coordinator/api/generator.h"
#include "coordinator/api/model_facts.h"
#include "coordinator/api/request_validator.h"
#include "coordinator/call/access_log.h"
#include "coordinator/call/call_pump.h"
#include "coordinator/call/call_services.h"
#include "coordinator/call/task_pool.h"
#include "coordinator/grpc/inference_service.h"
#include "coordinator/grpc/model_service.h"
#include "coordinator/grpc/unknown_methods.h"
#include "model/text/tokenizer.h"

namespace bora {

struct PublicServerOptions {
  // "host:port", where port 0 means any free port; or "unix:PATH".
  std::string listen_address = "127.0.0.1:50051";
  // Allows addresses other than loopback addresses and Unix sockets. Connections are not encrypted.
  bool insecure_listen = false;
  AccessLogOptions access_log;
  // A call ends if its client does not read a message for this long; promised by the comment of
  // GenerateStream in inference_service.proto.
  absl::Duration slow_reader_timeout = absl::Seconds(30);
};

// INVALID_ARGUMENT, with the address and the flag that would allow it, if the address is malformed
// or if plaintext is not allowed on it; else OK.
absl::Status CheckListenAddress(const PublicServerOptions& options);

// Thread-safe after Start.
class PublicServer {
 public:
  // Listens and takes calls at once; health checks answer NOT_SERVING until SetServing(true).
  // `engine` and `tokenizer` must outlive the server. INVALID_ARGUMENT: see CheckListenAddress;
  // UNAVAILABLE: the address cannot be bound.
  static absl::StatusOr<std::unique_ptr<PublicServer>> Start(const PublicServerOptions& options,
                                                             const ModelFacts& model,
                                                             const ServerFacts& facts,
                                                             Generator* engine,
                                                             const Tokenizer& tokenizer);
  // Does what Shutdown(SteadyNow()) does.
  ~PublicServer();

  // The port that was bound; 0 for a Unix socket.
  int port() const { return port_; }
  // Sets the answer of health checks for "", for the names of the services and for "readiness":
  // SERVING or NOT_SERVING.
  void SetServing(bool serving);
  // Sets the answer of health checks for "liveness"; SERVING at first. An orchestrator restarts a
  // server that is not live.
  void SetLive(bool live);
  // Waits until `deadline` for the running calls of our services to end, then cancels the rest, and
  // returns when no call is left. Does not wait for streams of Health/Watch, which never end. Calls
  // that arrive meanwhile are still taken, so the engine should refuse them (Engine::Drain). A
  // later call has nothing left to do. REQUIRES: the engine still exists.
  void Shutdown(SteadyTime deadline);

  AccessLog& access_log() { return access_log_; }

  // Calls of our services that have not ended.
  int64_t n_live_calls() const { return n_live_calls_.load(std::memory_order_relaxed); }

 private:
  PublicServer(const PublicServerOptions& options, const ModelFacts& model,
               const ServerFacts& facts, Generator* engine, const Tokenizer& tokenizer);
  // Starts gRPC's server. UNAVAILABLE if the address cannot be bound.
  absl::Status Listen(const std::string& address);

  // In the order of their dependence: each member may use those above it.
  const ModelFacts model_;
  const ServerFacts facts_;
  const RequestValidator validator_;
  std::atomic<int64_t> n_live_calls_{0};
  AccessLog access_log_;
  CallPump pump_;
  TaskPool tasks_;
  CallServices services_;
  InferenceServiceImpl inference_service_;
  ModelServiceImpl model_service_;
  UnknownMethods unknown_methods_{kWorkerMethods, kOnClientPort};
  std::unique_ptr<grpc::Server> server_;
  int port_ = 0;
};

}  // namespace bora

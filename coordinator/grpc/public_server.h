// The listener that clients connect to: InferenceService, ModelService, health and reflection, with
// settings that bound what a client can hold.
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
  std::string listen_address = "127.0.0.1:50051";  // host:port, port 0 = any; or unix:PATH
  // There is no encryption yet: without this only loopback addresses and Unix sockets are allowed.
  bool insecure_listen = false;
  AccessLogOptions access_log;
  absl::Duration slow_reader_timeout = absl::Seconds(30);  // as GenerateStream's comment says
};

// OK if the listener may be plaintext; INVALID_ARGUMENT names the address and the option else.
absl::Status CheckListenAddress(const PublicServerOptions& options);

// Thread-safe after Start.
class PublicServer {
 public:
  // Listens and serves at once; health is NOT_SERVING until SetServing. `engine` and `tokenizer`
  // outlive the server. INVALID_ARGUMENT: see CheckListenAddress; UNAVAILABLE: the address cannot
  // be had.
  static absl::StatusOr<std::unique_ptr<PublicServer>> Start(const PublicServerOptions& options,
                                                             const ModelFacts& model,
                                                             const ServerFacts& facts,
                                                             Generator* engine,
                                                             const Tokenizer& tokenizer);
  // As Shutdown(SteadyNow()).
  ~PublicServer();

  // The port that was bound; 0 for a Unix socket.
  int port() const { return port_; }
  // What health checks of "", the services and "readiness" answer.
  void SetServing(bool serving);
  // What health checks of "liveness" answer: SERVING until told otherwise.
  void SetLive(bool live);
  // Waits until `deadline` for calls of our services that run, while the engine refuses new ones,
  // then cancels what is left; watchers of the health are not waited for. Blocks until the last is
  // gone. The engine must still be there. Later calls do nothing.
  void Shutdown(SteadyTime deadline);

  AccessLog& access_log() { return access_log_; }

  // Calls whose reactor exists.
  int64_t n_live_calls() const { return n_live_calls_.load(std::memory_order_relaxed); }

 private:
  PublicServer(const PublicServerOptions& options, const ModelFacts& model,
               const ServerFacts& facts, Generator* engine, const Tokenizer& tokenizer);
  absl::Status Listen(const std::string& address);

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

// Answers calls of methods that a server does not have: with the reason, where gRPC itself says
// UNIMPLEMENTED and nothing else. A worker that dials the port for clients, or a client on the port
// for workers, learns so.
#pragma once

#include <grpcpp/generic/async_generic_service.h>

#include <string>

#include "absl/strings/string_view.h"
#include "base/log_rate.h"

namespace bora {

// Thread-safe. Outlives the server that it is registered with.
class UnknownMethods final : public grpc::CallbackGenericService {
 public:
  // Methods that begin with `other_prefix` are another port's; `hint` says so.
  UnknownMethods(absl::string_view other_prefix, absl::string_view hint)
      : other_prefix_(other_prefix), hint_(hint) {}

  grpc::ServerGenericBidiReactor* CreateReactor(
      grpc::GenericCallbackServerContext* context) override;

 private:
  const std::string other_prefix_;
  const std::string hint_;
  LogRate log_rate_{absl::Seconds(1)};
};

// What the two ports of a coordinator say about each other's methods.
inline constexpr absl::string_view kWorkerMethods = "/bora.worker.";
inline constexpr absl::string_view kOnClientPort =
    "this is the coordinator's client port (--listen): workers dial its worker port, "
    "--worker-listen";
inline constexpr absl::string_view kClientMethods = "/bora.inference.";
inline constexpr absl::string_view kOnWorkerPort =
    "this is the coordinator's worker port (--worker-listen): clients dial its client port, "
    "--listen";

}  // namespace bora

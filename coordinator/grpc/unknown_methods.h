// Answers calls of methods that a server does not have with UNIMPLEMENTED and a message; gRPC
// itself sends no message. A worker that dials the clients' port, and a client that dials the
// workers' port, learn of their mistake from it.
#pragma once

#include <grpcpp/generic/async_generic_service.h>

#include <string>

#include "absl/strings/string_view.h"
#include "base/log_rate.h"

namespace bora {

// Thread-safe. Outlives the server that it is registered with.
class UnknownMethods final : public grpc::CallbackGenericService {
 public:
  // A call of a method that begins with `other_prefix`, which belongs to another port, is answered
  // with `hint` and logged.
  UnknownMethods(absl::string_view other_prefix, absl::string_view hint)
      : other_prefix_(other_prefix), hint_(hint) {}

  grpc::ServerGenericBidiReactor* CreateReactor(
      grpc::GenericCallbackServerContext* context) override;

 private:
  const std::string other_prefix_;
  const std::string hint_;
  LogRate log_rate_{absl::Seconds(1)};  // of lines about calls on the wrong port
};

// The prefixes of the methods of a coordinator's two ports, and the hints that each port gives for
// the other's methods.
inline constexpr absl::string_view kWorkerMethods = "/bora.worker.";
inline constexpr absl::string_view kOnClientPort =
    "this is the coordinator's client port (--listen): workers dial its worker port, "
    "--worker-listen";
inline constexpr absl::string_view kClientMethods = "/bora.inference.";
inline constexpr absl::string_view kOnWorkerPort =
    "this is the coordinator's worker port (--worker-listen): clients dial its client port, "
    "--listen";

}  // namespace bora

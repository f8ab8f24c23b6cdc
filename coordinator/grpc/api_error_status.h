// Converts an ApiError to the status and trailers that gRPC sends: the only place where absl's
// codes become gRPC's.
#pragma once

#include <grpcpp/server_context.h>
#include <grpcpp/support/status.h>

#include "absl/strings/string_view.h"
#include "coordinator/api/api_error.h"

namespace bora {

// The value of google.rpc.ErrorInfo.domain in every error.
inline constexpr char kErrorDomain[] = "bora.dev";

// The gRPC code of the same name; INTERNAL for a number that is no canonical code.
grpc::StatusCode ToGrpcCode(absl::StatusCode code);

// The status with a serialised google.rpc.Status in its details, which gRPC sends as the trailer
// grpc-status-details-bin. The details always have ErrorInfo and RequestInfo (`request_id`);
// BadRequest if the error has violations, RetryInfo if it has a retry delay, ResourceInfo if a
// model was not found.
grpc::Status ToGrpcStatus(const ApiError& error, absl::string_view request_id);

// Adds the trailers that an error needs beside its status: grpc-retry-pushback-ms if the code is
// UNAVAILABLE and there is a retry delay. gRPC clients with a retry policy obey it.
// REQUIRES: the call's Finish was not called yet.
void AddErrorTrailers(const ApiError& error, grpc::CallbackServerContext* context);

}  // namespace bora

// ApiError to what gRPC sends: the only place where absl's codes become gRPC's.
#pragma once

#include <grpcpp/server_context.h>
#include <grpcpp/support/status.h>

#include "absl/strings/string_view.h"
#include "coordinator/api/api_error.h"

namespace bora {

inline constexpr char kErrorDomain[] = "bora.dev";

grpc::StatusCode ToGrpcCode(absl::StatusCode code);

// The status with a serialised google.rpc.Status in its details: ErrorInfo, RequestInfo, BadRequest
// where there are violations, RetryInfo where there is a retry delay, ResourceInfo where a model
// was not found. gRPC sends it as grpc-status-details-bin.
grpc::Status ToGrpcStatus(const ApiError& error, absl::string_view request_id);

// Adds what belongs to the error in the trailers beside its status: grpc-retry-pushback-ms for
// UNAVAILABLE, which gRPC's own retries obey. To be called before Finish.
void AddErrorTrailers(const ApiError& error, grpc::CallbackServerContext* context);

}  // namespace bora

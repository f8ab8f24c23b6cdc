#include "coordinator/grpc/api_error_status.h"

#include <string>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "coordinator/api/proto_duration.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"

namespace bora {

grpc::StatusCode ToGrpcCode(absl::StatusCode code) {
  // absl and gRPC give the canonical codes the same numbers. Any other number is a bug of ours.
  const int number = static_cast<int>(code);
  if (number < 0 || number > static_cast<int>(grpc::StatusCode::UNAUTHENTICATED)) {
    return grpc::StatusCode::INTERNAL;
  }
  return static_cast<grpc::StatusCode>(number);
}

grpc::Status ToGrpcStatus(const ApiError& error, absl::string_view request_id) {
  google::rpc::Status status;
  status.set_code(ToGrpcCode(error.code));
  status.set_message(error.message);

  google::rpc::ErrorInfo info;
  info.set_reason(error.reason);
  info.set_domain(kErrorDomain);
  for (const auto& [key, value] : error.metadata) (*info.mutable_metadata())[key] = value;
  status.add_details()->PackFrom(info);

  google::rpc::RequestInfo request;
  request.set_request_id(std::string(request_id));
  status.add_details()->PackFrom(request);

  if (!error.violations.empty()) {
    google::rpc::BadRequest bad_request;
    for (const FieldViolation& violation : error.violations) {
      auto* out = bad_request.add_field_violations();
      out->set_field(violation.field);
      out->set_description(violation.description);
    }
    status.add_details()->PackFrom(bad_request);
  }
  if (error.retry_delay.has_value()) {
    google::rpc::RetryInfo retry;
    SetDuration(*error.retry_delay, retry.mutable_retry_delay());
    status.add_details()->PackFrom(retry);
  }
  const auto model = error.metadata.find("model");
  if (error.code == absl::StatusCode::kNotFound && model != error.metadata.end()) {
    google::rpc::ResourceInfo resource;
    resource.set_resource_type("bora.dev/Model");
    resource.set_resource_name(model->second);
    resource.set_description(error.message);
    status.add_details()->PackFrom(resource);
  }
  return grpc::Status(ToGrpcCode(error.code), error.message, status.SerializeAsString());
}

void AddErrorTrailers(const ApiError& error, grpc::CallbackServerContext* context) {
  if (error.code != absl::StatusCode::kUnavailable || !error.retry_delay.has_value()) return;
  context->AddTrailingMetadata("grpc-retry-pushback-ms",
                               absl::StrCat(absl::ToInt64Milliseconds(*error.retry_delay)));
}

}  // namespace bora

#include "client/client.h"

#include <nlohmann/json.hpp>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"

namespace bora {

Client::Client(const std::string& address) {
  grpc::ChannelArguments arguments;
  // gRPC's default of 4 MiB is too little for the prompt log probabilities of a long prompt.
  arguments.SetMaxReceiveMessageSize(64 << 20);
  // Notices a server that vanished while a stream is silent. Servers allow one ping per 10 s.
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, 30000);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 10000);
  // A restarted server is found within about a second, instead of gRPC's default backoff of up to 2
  // minutes.
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 200);
  arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, 1000);
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 1000);
  channel_ = grpc::CreateCustomChannel(address, grpc::InsecureChannelCredentials(), arguments);
  inference_ = inference::v1::InferenceService::NewStub(channel_);
  models_ = inference::v1::ModelService::NewStub(channel_);
}

CallError DescribeError(const grpc::Status& status) {
  CallError error;
  error.code = absl::StatusCodeToString(static_cast<absl::StatusCode>(status.error_code()));
  error.message = status.error_message();
  // gRPC carries the details in a trailer, as a serialised google.rpc.Status.
  google::rpc::Status details;
  if (!details.ParseFromString(status.error_details())) return error;
  for (const auto& any : details.details()) {
    google::rpc::ErrorInfo info;
    // UnpackTo() succeeds only for the type that `any` holds.
    google::rpc::BadRequest bad_request;
    google::rpc::RetryInfo retry;
    google::rpc::RequestInfo request;
    if (any.UnpackTo(&info)) {
      error.reason = info.reason();
    } else if (any.UnpackTo(&bad_request)) {
      for (const auto& violation : bad_request.field_violations()) {
        error.fields.push_back(absl::StrCat(violation.field(), ": ", violation.description()));
      }
    } else if (any.UnpackTo(&retry)) {
      error.retry_delay_s =
          static_cast<double>(retry.retry_delay().seconds()) + retry.retry_delay().nanos() * 1e-9;
    } else if (any.UnpackTo(&request)) {
      error.request_id = request.request_id();
    }
  }
  return error;
}

std::string ToText(const CallError& error) {
  std::string text = error.code;
  if (!error.reason.empty()) absl::StrAppend(&text, "/", error.reason);
  absl::StrAppend(&text, ": ", error.message);
  for (const std::string& field : error.fields) absl::StrAppend(&text, "\n  ", field);
  if (error.retry_delay_s >= 0) {
    absl::StrAppendFormat(&text, "\n  worth a retry in %.1f s", error.retry_delay_s);
  }
  return text;
}

std::string ToJson(const CallError& error) {
  nlohmann::json json = {
      {"code", error.code}, {"reason", error.reason}, {"message", error.message}};
  if (!error.fields.empty()) json["field_violations"] = error.fields;
  if (!error.request_id.empty()) json["request_id"] = error.request_id;
  if (error.retry_delay_s >= 0) json["retry_delay_s"] = error.retry_delay_s;
  // "replace": a message that is not UTF-8 must not make dump() throw.
  return nlohmann::json{{"error", json}}.dump(-1, ' ', false,
                                              nlohmann::json::error_handler_t::replace);
}

}  // namespace bora

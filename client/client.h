// Client side of the protocol bora.inference.v1: a channel with suitable settings, and failed calls
// in words.
#pragma once

#include <grpcpp/grpcpp.h>

#include <memory>
#include <string>
#include <vector>

#include "bora/inference/v1/inference_service.grpc.pb.h"
#include "bora/inference/v1/model_service.grpc.pb.h"

namespace bora {

// A channel to one server and the stubs of its services. The channel is not encrypted. Thread-safe.
class Client {
 public:
  // `address`: HOST:PORT or unix:PATH. The constructor does not block; gRPC connects at the first
  // call.
  explicit Client(const std::string& address);

  // The stubs are owned by this object.
  inference::v1::InferenceService::Stub& inference() { return *inference_; }
  inference::v1::ModelService::Stub& models() { return *models_; }

 private:
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<inference::v1::InferenceService::Stub> inference_;
  std::unique_ptr<inference::v1::ModelService::Stub> models_;
};

// A failed call, taken apart. A plain value.
struct CallError {
  std::string code;     // name of the gRPC status code: "INVALID_ARGUMENT"
  std::string reason;   // ErrorInfo.reason, such as "QUEUE_FULL"; empty if the server sent none
  std::string message;  // the message of the status
  std::vector<std::string> fields;  // one per wrong field: "sampling.top_p: 2 is not in (0, 1]"
  std::string request_id;           // empty if the server sent none
  double retry_delay_s = -1;  // seconds to wait before a retry; negative: a retry is not suggested
};

// Takes a status and its google.rpc details apart. Details of unknown types are ignored, and so are
// all details if they cannot be parsed. REQUIRES: `status` is not OK.
CallError DescribeError(const grpc::Status& status);

// Returns the error as text: "UNAVAILABLE/QUEUE_FULL: <message>", then one indented line for each
// field, and one for the retry delay. No newline at the end.
std::string ToText(const CallError& error);
// Returns the error as one JSON object {"error": {...}} in one line without a newline. Empty fields
// are left out, except "reason".
std::string ToJson(const CallError& error);

}  // namespace bora

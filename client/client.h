// Client side of bora.inference.v1: a channel with the service's recommended settings, and errors
// in words.
#pragma once

#include <grpcpp/grpcpp.h>

#include <memory>
#include <string>
#include <vector>

#include "bora/inference/v1/inference_service.grpc.pb.h"
#include "bora/inference/v1/model_service.grpc.pb.h"

namespace bora {

// Thread-safe.
class Client {
 public:
  // `address`: host:port or unix:PATH. Connects when first used.
  explicit Client(const std::string& address);

  inference::v1::InferenceService::Stub& inference() { return *inference_; }
  inference::v1::ModelService::Stub& models() { return *models_; }

 private:
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<inference::v1::InferenceService::Stub> inference_;
  std::unique_ptr<inference::v1::ModelService::Stub> models_;
};

// A failed call as a person or a program wants to see it.
struct CallError {
  std::string code;    // "INVALID_ARGUMENT"
  std::string reason;  // ErrorInfo.reason; empty when the server sent none
  std::string message;
  std::vector<std::string> fields;  // "sampling.top_p: 2 is not in (0, 1]"
  std::string request_id;
  double retry_delay_s = -1;  // < 0: no retry is suggested
};

// Reads the status and its google.rpc details. The status must not be OK.
CallError DescribeError(const grpc::Status& status);

// "UNAVAILABLE/QUEUE_FULL: the queue holds ..." and a line for each field and for the retry delay.
std::string ToText(const CallError& error);
// The same as one JSON object.
std::string ToJson(const CallError& error);

}  // namespace bora

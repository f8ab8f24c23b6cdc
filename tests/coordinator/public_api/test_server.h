// A public server over a fake engine on a loopback port, and what a client decodes from its errors.
#pragma once

#include <grpcpp/grpcpp.h>

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/clock.h"
#include "bora/inference/v1/inference_service.grpc.pb.h"
#include "bora/inference/v1/model_service.grpc.pb.h"
#include "coordinator/grpc/public_server.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"
#include "gtest/gtest.h"
#include "tests/coordinator/public_api/fake_engine.h"
#include "tests/coordinator/public_api/test_request.h"
#include "tests/coordinator/public_api/test_vocabulary.h"

namespace bora {

// An error as a client in another process sees it: from grpc-status-details-bin.
struct ClientError {
  grpc::StatusCode code = grpc::StatusCode::OK;
  std::string message;
  std::string reason;
  std::string domain;
  std::string request_id;
  std::string resource_name;
  std::map<std::string, std::string> metadata;
  std::map<std::string, std::string> violations;
  int64_t retry_delay_ms = -1;
};

inline ClientError Decode(const grpc::Status& status) {
  ClientError error;
  error.code = status.error_code();
  error.message = status.error_message();
  google::rpc::Status details;
  EXPECT_TRUE(details.ParseFromString(status.error_details()));
  for (const google::protobuf::Any& any : details.details()) {
    google::rpc::ErrorInfo info;
    google::rpc::BadRequest bad_request;
    google::rpc::RetryInfo retry;
    google::rpc::ResourceInfo resource;
    google::rpc::RequestInfo request;
    if (any.UnpackTo(&info)) {
      error.reason = info.reason();
      error.domain = info.domain();
      error.metadata.insert(info.metadata().begin(), info.metadata().end());
    } else if (any.UnpackTo(&bad_request)) {
      for (const auto& violation : bad_request.field_violations()) {
        error.violations[violation.field()] = violation.description();
      }
    } else if (any.UnpackTo(&retry)) {
      error.retry_delay_ms =
          retry.retry_delay().seconds() * 1000 + retry.retry_delay().nanos() / 1'000'000;
    } else if (any.UnpackTo(&resource)) {
      error.resource_name = resource.resource_name();
    } else if (any.UnpackTo(&request)) {
      error.request_id = request.request_id();
    }
  }
  return error;
}

class TestServer {
 public:
  explicit TestServer(FakeEngine::Mode mode, absl::Duration slow_reader_timeout = absl::Seconds(30))
      : tokenizer(MakeTestTokenizer()), engine(mode, tokenizer) {
    PublicServerOptions options;
    options.listen_address = "127.0.0.1:0";
    options.access_log.mode = AccessLogMode::kOff;
    options.slow_reader_timeout = slow_reader_timeout;
    auto started = PublicServer::Start(options, TestModel(), ServerFacts(), &engine, tokenizer);
    CHECK_OK(started.status());
    server = *std::move(started);
    channel = Connect(grpc::ChannelArguments());
    stub = inference::v1::InferenceService::NewStub(channel);
    model_stub = inference::v1::ModelService::NewStub(channel);
  }

  std::shared_ptr<grpc::Channel> Connect(const grpc::ChannelArguments& arguments) {
    return grpc::CreateCustomChannel(absl::StrCat("127.0.0.1:", server->port()),
                                     grpc::InsecureChannelCredentials(), arguments);
  }

  // Waits for the last call's reactor to go; how many are left after 20 s.
  int64_t LiveCallsAtEnd() {
    const SteadyTime deadline = SteadyNow() + absl::Seconds(20);
    while (server->n_live_calls() > 0 && SteadyNow() < deadline) {
      absl::SleepFor(absl::Milliseconds(1));
    }
    return server->n_live_calls();
  }

  Tokenizer tokenizer;
  FakeEngine engine;
  std::unique_ptr<PublicServer> server;
  std::shared_ptr<grpc::Channel> channel;
  std::unique_ptr<inference::v1::InferenceService::Stub> stub;
  std::unique_ptr<inference::v1::ModelService::Stub> model_stub;
};

}  // namespace bora

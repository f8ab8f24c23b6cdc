#include "coordinator/grpc/public_server.h"

#include <string>

#include "base/clock.h"
#include "gmock/gmock.h"
#include "grpc/health/v1/health.grpc.pb.h"
#include "gtest/gtest.h"
#include "tests/coordinator/public_api/test_server.h"

namespace bora {
namespace {

namespace v1 = inference::v1;
using grpc::health::v1::HealthCheckResponse;
using testing::HasSubstr;

HealthCheckResponse::ServingStatus Health(TestServer* server, const std::string& service) {
  auto stub = grpc::health::v1::Health::NewStub(server->channel);
  grpc::ClientContext context;
  grpc::health::v1::HealthCheckRequest request;
  request.set_service(service);
  HealthCheckResponse response;
  EXPECT_TRUE(stub->Check(&context, request, &response).ok());
  return response.status();
}

TEST(PublicServerTest, ShutdownDoesNotWaitForWatchersOfTheHealth) {
  TestServer server(FakeEngine::Mode::kByHand);
  auto stub = grpc::health::v1::Health::NewStub(server.channel);
  grpc::ClientContext context;
  const auto watch = stub->Watch(&context, grpc::health::v1::HealthCheckRequest());
  HealthCheckResponse response;
  ASSERT_TRUE(watch->Read(&response));
  const SteadyTime begin = SteadyNow();
  server.server->Shutdown(begin + absl::Seconds(60));
  EXPECT_LT(SteadyNow() - begin, absl::Seconds(30));
  while (watch->Read(&response)) {
  }
  EXPECT_FALSE(watch->Finish().ok());
}

TEST(PublicServerTest, HealthFollowsSetServingAndLivenessDoesNot) {
  TestServer server(FakeEngine::Mode::kByHand);
  for (const bool serving : {false, true, false}) {
    server.server->SetServing(serving);
    for (const char* service : {"", "readiness", "bora.inference.v1.InferenceService",
                                "bora.inference.v1.ModelService"}) {
      EXPECT_EQ(Health(&server, service),
                serving ? HealthCheckResponse::SERVING : HealthCheckResponse::NOT_SERVING)
          << service;
    }
    EXPECT_EQ(Health(&server, "liveness"), HealthCheckResponse::SERVING);
    server.server->SetLive(false);
    EXPECT_EQ(Health(&server, "liveness"), HealthCheckResponse::NOT_SERVING);
    server.server->SetLive(true);
  }
}

TEST(PublicServerTest, ServerInfoSaysWhatAConnectionMayDo) {
  TestServer server(FakeEngine::Mode::kByHand);
  grpc::ClientContext context;
  v1::ServerInfo info;
  ASSERT_TRUE(server.model_stub->GetServerInfo(&context, {}, &info).ok());
  const v1::ConnectionLimits& limits = info.connection_limits();
  EXPECT_EQ(limits.max_concurrent_streams(), 256);
  EXPECT_EQ(limits.max_metadata_bytes(), 16 << 10);
  EXPECT_EQ(limits.max_age().seconds(), 1800);
  EXPECT_EQ(limits.max_age_grace().seconds(), 600);
  EXPECT_EQ(limits.max_idle().seconds(), 300);
  EXPECT_EQ(limits.min_ping_interval().seconds(), 10);
}

TEST(PublicServerTest, PlaintextBeyondLoopbackNeedsTheOption) {
  PublicServerOptions options;
  for (const char* address : {"0.0.0.0:0", "[::]:0", "10.0.0.1:5", "host:5", "127.example.com:5"}) {
    options.listen_address = address;
    options.insecure_listen = false;
    const absl::Status status = CheckListenAddress(options);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << address;
    EXPECT_THAT(std::string(status.message()), HasSubstr("--insecure-listen"));
    options.insecure_listen = true;
    EXPECT_TRUE(CheckListenAddress(options).ok());
  }
}

TEST(PublicServerTest, LoopbackAndUnixSocketsNeedNoOption) {
  PublicServerOptions options;
  for (const char* address : {"127.0.0.1:0", "[::1]:5", "localhost:0", "unix:/tmp/x"}) {
    options.listen_address = address;
    EXPECT_TRUE(CheckListenAddress(options).ok()) << address;
  }
}

TEST(PublicServerTest, SecondListenerOnAPortIsRefused) {
  TestServer server(FakeEngine::Mode::kByHand);
  PublicServerOptions options;
  options.listen_address = absl::StrCat("127.0.0.1:", server.server->port());
  const auto second =
      PublicServer::Start(options, TestModel(), ServerFacts(), &server.engine, server.tokenizer);
  EXPECT_EQ(second.status().code(), absl::StatusCode::kUnavailable);
}

TEST(PublicServerTest, ModelServiceTellsLimitsAndState) {
  TestServer server(FakeEngine::Mode::kByHand);
  ServerSnapshot snapshot;
  snapshot.group_state = GroupState::kServing;
  snapshot.weights_digest = "abc";
  snapshot.epoch = 4;
  snapshot.workers.resize(2);
  snapshot.workers[1].state = WorkerState::kServing;
  snapshot.workers[1].last_heartbeat = SteadyNow() - absl::Seconds(3);
  snapshot.load.n_waiting = 7;
  server.engine.SetSnapshot(snapshot);
  {
    grpc::ClientContext context;
    v1::ListModelsResponse models;
    ASSERT_TRUE(server.model_stub->ListModels(&context, v1::ListModelsRequest(), &models).ok());
    ASSERT_EQ(models.models_size(), 1);
    EXPECT_EQ(models.models(0).name(), "models/test");
    EXPECT_EQ(models.models(0).weights_digest(), "abc");
    EXPECT_EQ(models.models(0).limits().max_prompt_bytes(), 1 << 20);
    EXPECT_EQ(models.models(0).limits().max_candidates(), 16);
  }
  {
    grpc::ClientContext context;
    v1::ServerInfo info;
    ASSERT_TRUE(server.model_stub->GetServerInfo(&context, v1::GetServerInfoRequest(), &info).ok());
    EXPECT_EQ(info.group_state(), v1::GROUP_STATE_SERVING);
    EXPECT_EQ(info.epoch(), 4);
    ASSERT_EQ(info.workers_size(), 2);
    EXPECT_EQ(info.workers(1).state(), v1::WORKER_STATE_SERVING);
    EXPECT_GE(info.workers(1).last_heartbeat_age().seconds(), 3);
    EXPECT_EQ(info.load().waiting_count(), 7);
  }
  {
    grpc::ClientContext context;
    v1::GetModelRequest request;
    request.set_name("models/\xFF");
    v1::Model model;
    EXPECT_EQ(Decode(server.model_stub->GetModel(&context, request, &model)).reason,
              "INVALID_FIELD");
  }
  {
    grpc::ClientContext context;
    v1::GetModelRequest request;
    request.set_name("models/no");
    v1::Model model;
    EXPECT_EQ(Decode(server.model_stub->GetModel(&context, request, &model)).reason,
              "MODEL_NOT_FOUND");
  }
}

}  // namespace
}  // namespace bora

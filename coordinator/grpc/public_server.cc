#include "coordinator/grpc/public_server.h"

#include <grpc/grpc.h>
#include <grpcpp/ext/proto_server_reflection_plugin.h>
#include <grpcpp/health_check_service_interface.h>
#include <grpcpp/resource_quota.h>
#include <grpcpp/security/server_credentials.h>
#include <grpcpp/server_builder.h>

#include <algorithm>
#include <chrono>
#include <thread>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/host/host_port.h"
#include "base/host/listen_check.h"
#include "base/status_macros.h"
#include "grpc/health/v1/health.pb.h"

namespace bora {
namespace {

constexpr const char* kReadinessNames[] = {"", "readiness", "bora.inference.v1.InferenceService",
                                           "bora.inference.v1.ModelService"};
constexpr char kLivenessName[] = "liveness";

// A request that waits for a thread holds its message, of 4 MiB at most. A burst of prompts is what
// the engine's queue is for, so that many of them may wait: 256 MiB. A text of 1 MiB takes 0.3 s,
// so that the last of those that wait is done in 5 s if nothing else needs the core.
constexpr size_t kMaxWaitingPrompts = 64;
constexpr size_t kMaxWaitingTexts = 16;
// For the transport to write what calls that have ended have left to it.
constexpr absl::Duration kLastBytesTime = absl::Milliseconds(100);

// Prompts are tokenized on half of the cores, two at most: the rest is for the engine's thread and
// for workers on this machine.
int PromptThreads() {
  return std::clamp(static_cast<int>(std::thread::hardware_concurrency()) / 2, 1, 2);
}

bool IsLoopback(absl::string_view address) {
  if (absl::StartsWith(address, "unix:") || absl::StartsWith(address, "unix-abstract:"))
    return true;
  const absl::string_view host = address.substr(0, address.rfind(':'));
  if (host == "localhost" || host == "[::1]") return true;
  // Digits and dots only: "127.example.com" is a name like any other.
  return absl::StartsWith(host, "127.") &&
         host.find_first_not_of("0123456789.") == absl::string_view::npos;
}

// Dead peers are found within 40 s; silent connections cost a descriptor for 5 s at most, idle ones
// for 5 minutes; long-lived ones are closed after 30 minutes so that balancers can move them, with
// a grace above the longest stream. Streams, messages and headers of one connection are bounded:
// what a connection may hold is kMaxConnectionStreams times a message.
//
// gRPC's own limits of a call are above those that this server promises (kMaxMessageBytes,
// kMaxMetadataBytes), so that a call a little too large gets an answer that says why. For metadata
// there is no other way: gRPC 1.51 ends the connection, with all its calls, when a call's metadata
// are larger than its limit, since it leaves the rest of the header block unread and loses the
// compression state. 1 MiB is what Go's HTTP server takes; proxies let less pass.
void SetLimits(grpc::ServerBuilder* builder) {
  builder->AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, 30'000);
  builder->AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 10'000);
  builder->AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  builder->AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS,
                              1000 * kMinPingIntervalS);
  builder->AddChannelArgument(GRPC_ARG_HTTP2_MAX_PING_STRIKES, 2);
  builder->AddChannelArgument(GRPC_ARG_MAX_CONNECTION_AGE_MS, 1000 * kMaxConnectionAgeS);
  builder->AddChannelArgument(GRPC_ARG_MAX_CONNECTION_AGE_GRACE_MS, 1000 * kMaxConnectionGraceS);
  builder->AddChannelArgument(GRPC_ARG_MAX_CONNECTION_IDLE_MS, 1000 * kMaxConnectionIdleS);
  builder->AddChannelArgument(GRPC_ARG_MAX_CONCURRENT_STREAMS, kMaxConnectionStreams);
  builder->AddChannelArgument(GRPC_ARG_MAX_METADATA_SIZE, 1 << 20);
  // See request_compression.h. What is called deflate cannot be told from a message.
  builder->AddChannelArgument(GRPC_ARG_ENABLE_PER_MESSAGE_DECOMPRESSION, 0);
  builder->SetCompressionAlgorithmSupportStatus(GRPC_COMPRESS_DEFLATE, false);
  builder->AddChannelArgument(GRPC_ARG_SERVER_HANDSHAKE_TIMEOUT_MS, 5'000);
  // Two coordinators must not share a port without knowing it.
  builder->AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
  builder->SetMaxReceiveMessageSize(2 * kMaxMessageBytes);
  builder->SetMaxSendMessageSize(kMaxMessageBytes);
  grpc::ResourceQuota quota("bora-public");
  const int n_cores = static_cast<int>(std::thread::hardware_concurrency());
  quota.SetMaxThreads(std::max(4, 2 * n_cores));
  builder->SetResourceQuota(quota);
}

}  // namespace

absl::Status CheckListenAddress(const PublicServerOptions& options) {
  RETURN_IF_ERROR(
      Annotate(CheckHostPort(options.listen_address, /*min_port=*/0), "listen address"));
  if (options.insecure_listen || IsLoopback(options.listen_address)) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("listen address ", options.listen_address,
                   " is not a loopback address, and connections would be neither encrypted nor "
                   "authenticated; pass --insecure-listen if the network is trusted"));
}

PublicServer::PublicServer(const PublicServerOptions& options, const ModelFacts& model,
                           const ServerFacts& facts, Generator* engine, const Tokenizer& tokenizer)
    : model_(model),
      facts_(facts),
      validator_(model_, tokenizer),
      access_log_(options.access_log),
      pump_(options.slow_reader_timeout),
      tasks_(PromptThreads(), kMaxWaitingPrompts, kMaxWaitingTexts),
      inference_service_(services_),
      model_service_(facts_, services_) {
  services_.engine = engine;
  services_.validator = &validator_;
  services_.pump = &pump_;
  services_.tasks = &tasks_;
  services_.n_live_calls = &n_live_calls_;
  services_.access_log = &access_log_;
  services_.slow_reader_timeout = options.slow_reader_timeout;
}

absl::StatusOr<std::unique_ptr<PublicServer>> PublicServer::Start(
    const PublicServerOptions& options, const ModelFacts& model, const ServerFacts& facts,
    Generator* engine, const Tokenizer& tokenizer) {
  if (absl::Status status = CheckListenAddress(options); !status.ok()) return status;
  auto server =
      std::unique_ptr<PublicServer>(new PublicServer(options, model, facts, engine, tokenizer));
  if (absl::Status status = server->Listen(options.listen_address); !status.ok()) return status;
  return server;
}

absl::Status PublicServer::Listen(const std::string& address) {
  // Never undone: gRPC's own shutdown, when the last server goes, can wait 10 s for a poller that
  // has nothing to do (measured after a refused 10 MB message), and a drained process should exit
  // at once.
  grpc_init();
  grpc::EnableDefaultHealthCheckService(true);
  // gRPC's health service has no descriptor of protobuf's, and reflection would name a service that
  // it cannot describe, for which some clients refuse the whole server: this links ours.
  grpc::health::v1::HealthCheckRequest::descriptor();
  grpc::reflection::InitProtoReflectionServerBuilderPlugin();
  grpc::ServerBuilder builder;
  SetLimits(&builder);
  builder.AddListeningPort(address, grpc::InsecureServerCredentials(), &port_);
  builder.RegisterService(&inference_service_);
  builder.RegisterService(&model_service_);
  builder.RegisterCallbackGenericService(&unknown_methods_);
  server_ = builder.BuildAndStart();
  if (server_ == nullptr) {
    return WhyNotListening(address);
  }
  SetServing(false);
  SetLive(true);
  return absl::OkStatus();
}

PublicServer::~PublicServer() { Shutdown(SteadyNow()); }

void PublicServer::SetServing(bool serving) {
  for (const char* name : kReadinessNames) {
    server_->GetHealthCheckService()->SetServingStatus(name, serving);
  }
}

void PublicServer::SetLive(bool live) {
  server_->GetHealthCheckService()->SetServingStatus(kLivenessName, live);
}

void PublicServer::Shutdown(SteadyTime deadline) {
  if (server_ == nullptr) return;
  // Streams of Health/Watch never end by themselves: only our own calls are worth the wait. Those
  // that are done may still have bytes under way.
  while (n_live_calls() > 0 && SteadyNow() < deadline) {
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
  server_->Shutdown(ToSystemTime(std::min(deadline, SteadyNow() + kLastBytesTime)));
  server_->Wait();
}

}  // namespace bora

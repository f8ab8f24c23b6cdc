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

// The names of health checks that SetServing answers; "" is the server as a whole.
constexpr const char* kReadinessNames[] = {"", "readiness", "bora.inference.v1.InferenceService",
                                           "bora.inference.v1.ModelService"};
constexpr char kLivenessName[] = "liveness";

// A request that waits for a thread of the task pool holds its message in memory, 4 MiB at most.
// Many prompts may wait, as the engine's queue is made for bursts of them: 64 * 4 MiB = 256 MiB.
// Few texts may wait: a text of 1 MiB takes 0.3 s, so 16 of them are done within 5 s if no other
// thread needs the core.
constexpr size_t kMaxWaitingPrompts = 64;
constexpr size_t kMaxWaitingTexts = 16;
// How long Shutdown gives gRPC to write the last bytes of calls that have ended.
constexpr absl::Duration kLastBytesTime = absl::Milliseconds(100);

// The number of threads that tokenize prompts: half of the cores, at least one and at most two. The
// other cores are left to the engine thread and to workers on this machine.
int PromptThreads() {
  return std::clamp(static_cast<int>(std::thread::hardware_concurrency()) / 2, 1, 2);
}

// Whether only processes of this machine can reach the address.
bool IsLoopback(absl::string_view address) {
  if (absl::StartsWith(address, "unix:") || absl::StartsWith(address, "unix-abstract:"))
    return true;
  const absl::string_view host = address.substr(0, address.rfind(':'));
  if (host == "localhost" || host == "[::1]") return true;
  // Only digits and dots: "127.example.com" is a name, which may stand for any address.
  return absl::StartsWith(host, "127.") &&
         host.find_first_not_of("0123456789.") == absl::string_view::npos;
}

// Bounds what connections and calls can take. Dead peers are found within 40 s (a ping after 30 s,
// 10 s for its answer). A connection without a handshake costs a descriptor for 5 s at most, an
// idle one for 5 minutes. Long-lived connections are closed after 30 minutes, with a grace period
// above the longest stream, so that balancers can move them. The number of streams and the sizes of
// messages and headers are bounded, so that one connection holds at most kMaxConnectionStreams
// times a message.
//
// gRPC's own limits of a call are above those that this server promises (kMaxMessageBytes,
// kMaxMetadataBytes), so that a call that is a little too large gets an answer with the reason. For
// metadata there is no other way: if a call's metadata exceed gRPC 1.51's limit, gRPC ends the
// connection with all its calls, since it leaves the rest of the header block unread and loses the
// compression state. The limit of 1 MiB is the one of Go's HTTP server; proxies let less pass.
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
  // The server decompresses gzip itself, see request_compression.h. Deflate is off, because its
  // bytes cannot be told from an uncompressed message.
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
  // Keeps gRPC's library initialised until the process exits; there is no grpc_shutdown for this.
  // The library's shutdown after the last server can wait 10 s for an idle poller (measured after a
  // refused 10 MB message), and a drained process should exit at once.
  grpc_init();
  grpc::EnableDefaultHealthCheckService(true);
  // gRPC's own health service does not bring protobuf's descriptor of its messages. Reflection
  // would then list a service that it cannot describe, and some clients refuse the whole server for
  // that. This line links the descriptor of our copy of health.proto.
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
  // server_->Shutdown alone would wait until its deadline for streams of Health/Watch, which never
  // end by themselves; so this loop waits for the calls of our services. Calls that have ended may
  // still have bytes under way: kLastBytesTime is for them.
  while (n_live_calls() > 0 && SteadyNow() < deadline) {
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
  server_->Shutdown(ToSystemTime(std::min(deadline, SteadyNow() + kLastBytesTime)));
  server_->Wait();
}

}  // namespace bora

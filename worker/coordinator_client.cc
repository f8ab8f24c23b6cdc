#include "worker/coordinator_client.h"

#include <grpcpp/grpcpp.h>
#include <netdb.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/clock.h"
#include "base/host/host_port.h"
#include "base/host/unique_fd.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "model/protocol/peer_text.h"
#include "model/protocol/worker_auth.h"
#include "model/protocol/worker_codec.h"

namespace bora {
namespace {

namespace pb = worker::v1alpha1;

// Bytes of the largest message that is accepted from the coordinator. A plan of a full prefill step
// fits; the limits of the public API bound its size.
constexpr int kMaxMessageBytes = 64 << 20;

// The longest time from dialling to the coordinator's Welcome; the coordinator waits as long for
// Hello. Without this limit, a link that breaks in between would be noticed only when TCP gives up.
constexpr int kWelcomeTimeoutMs = 5000;
// A silence of the coordinator that is longer than this is logged.
constexpr absl::Duration kSuspectTimeout = absl::Milliseconds(1500);
// If more time than this lies between two heartbeats of this side, the process itself has stood
// still (suspended, or starved of CPU). It is the longest heartbeat interval, doubled.
constexpr absl::Duration kLongestPause = absl::Seconds(1);
// The longest interval between two heartbeats, whatever the coordinator asks for.
constexpr int kMaxHeartbeatIntervalMs = 500;
// The longest time for one attempt to connect; gRPC's own limit is 20 s.
constexpr int kConnectTimeoutMs = 2000;

// Returns a new channel to the coordinator at `address` (HOST:PORT). It connects at the first call.
std::shared_ptr<grpc::Channel> Dial(const std::string& address) {
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(kMaxMessageBytes);
  // The channel shares nothing with earlier ones, so that gRPC does not wait before it connects:
  // Run decides on the delay between attempts.
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  // Despite its name, this also is the time that gRPC gives one attempt to connect.
  arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, kConnectTimeoutMs);
  return grpc::CreateCustomChannel(address, grpc::InsecureChannelCredentials(), arguments);
}

// Returns why a stream ended, for the log. `end` is the status with which it was ended: by the
// coordinator, or by another program that answers on its port.
absl::Status EndOfStream(const grpc::Status& end) {
  if (end.ok()) return absl::UnavailableError("the coordinator ended the stream");
  const auto code = static_cast<absl::StatusCode>(end.error_code());
  if (end.error_message().empty()) {
    return absl::Status(code, absl::StrCat(absl::StatusCodeToString(code), " without a reason: is ",
                                           "this a coordinator's --worker-listen?"));
  }
  return absl::Status(code, PeerText(end.error_message(), kMaxPeerReasonBytes));
}

// Whether the coordinator refuses this worker for good, so that dialling again is useless.
bool IsFinal(const absl::Status& status) {
  return absl::IsUnauthenticated(status) || absl::IsFailedPrecondition(status);
}

}  // namespace

CoordinatorClient::CoordinatorClient(CoordinatorClientOptions options)
    : options_(std::move(options)) {}

CoordinatorClient::~CoordinatorClient() { Stop(); }

void CoordinatorClient::Stop() {
  absl::MutexLock lock(&mutex_);
  stopping_ = true;
  stopped_.SignalAll();
  if (context_ != nullptr) context_->TryCancel();
}

bool CoordinatorClient::Send(int64_t connection_id, const WorkerMessage& message) {
  absl::MutexLock lock(&write_mutex_);
  return WriteLocked(connection_id, message);
}

bool CoordinatorClient::WriteLocked(int64_t connection_id, const WorkerMessage& message) {
  if (stream_ == nullptr || connection_id != stream_id_) return false;
  ToProto(message, &outgoing_);
  return stream_->Write(outgoing_);
}

absl::Status CoordinatorClient::Run(WorkerAgent* agent) {
  std::thread heartbeats([this, agent] { HeartbeatLoop(agent); });
  absl::Status status;
  absl::Duration delay = options_.retry_delay_min;
  while (!stopping()) {
    const SteadyTime begin = options_.clock();
    status = Serve(agent);
    if (IsFinal(status) || stopping()) break;
    // The delay starts over only after a connection that lasted. A worker that the coordinator
    // refuses soon after its Welcome, because it cannot load the weights, must not come back at
    // once for ever.
    if (options_.clock() - begin > options_.retry_delay_max) delay = options_.retry_delay_min;
    LogWarning("no coordinator", {{"address", options_.address},
                                  {"reason", status.message()},
                                  {"retry_ms", absl::ToInt64Milliseconds(delay)}});
    Pause(delay);
    delay = std::min(delay * 2, options_.retry_delay_max);
  }
  const bool asked_to_stop = stopping_;
  Stop();
  heartbeats.join();
  return asked_to_stop ? absl::OkStatus() : status;
}

absl::Status CoordinatorClient::Serve(WorkerAgent* agent) {
  const std::shared_ptr<grpc::Channel> channel = Dial(options_.address);
  const std::unique_ptr<pb::WorkerService::Stub> stub = pb::WorkerService::NewStub(channel);
  grpc::ClientContext context;
  std::unique_ptr<Stream> stream;
  int64_t connection_id = 0;
  {
    absl::MutexLock lock(&mutex_);
    if (stopping()) return absl::CancelledError("stopped");
    // From now on the heartbeat thread cancels the call if the Welcome takes too long.
    context_ = &context;
    connection_id = ++connection_id_;
    heard_ = true;
    heartbeat_timeout_ms_ = kWelcomeTimeoutMs;
  }
  WorkerAuth auth(options_.credential);
  if (!options_.credential.empty()) context.AddMetadata(kGateHeader, auth.Gate());
  stream = stub->Attach(&context);
  absl::Status status = SayHello(*agent, &auth, stream.get());
  if (status.ok()) {
    {
      absl::MutexLock lock(&write_mutex_);
      stream_ = stream.get();
      stream_id_ = connection_id;
    }
    status = ReadMessages(agent, connection_id, stream.get());
  }
  {
    // From here on no thread writes to the stream. A write that holds the lock returns at once if
    // the call has ended, and otherwise when CheckSilence cancels the call.
    absl::MutexLock lock(&write_mutex_);
    stream_ = nullptr;
    heartbeat_timeout_ms_ = 0;
  }
  agent->OnDisconnected();
  // UNAVAILABLE means that the stream has ended already; cancelling it then would replace the
  // status with which the coordinator ended it.
  if (!absl::IsUnavailable(status)) context.TryCancel();
  const grpc::Status end = stream->Finish();
  {
    absl::MutexLock lock(&mutex_);
    context_ = nullptr;
  }
  if (!absl::IsUnavailable(status)) return status;
  return EndOfStream(end);
}

absl::Status CoordinatorClient::SayHello(const WorkerAgent& agent, WorkerAuth* auth,
                                         Stream* stream) const {
  const auto ended = [] { return absl::UnavailableError("the stream ended"); };
  pb::CoordinatorMessage incoming;
  if (!stream->Read(&incoming)) return ended();
  if (!incoming.has_auth_challenge()) {
    return absl::InvalidArgumentError("the coordinator does not begin with a challenge");
  }
  pb::WorkerMessage outgoing;
  ASSIGN_OR_RETURN(*outgoing.mutable_auth_response(), auth->Respond(incoming.auth_challenge()));
  if (!stream->Write(outgoing) || !stream->Read(&incoming)) return ended();
  if (!incoming.has_auth_confirmation()) {
    return absl::InvalidArgumentError("the coordinator does not confirm the credential");
  }
  RETURN_IF_ERROR(auth->Check(incoming.auth_confirmation()));
  ToProto(WorkerMessage(agent.MakeHello()), &outgoing);
  return stream->Write(outgoing) ? absl::OkStatus() : ended();
}

absl::Status CoordinatorClient::ReadMessages(WorkerAgent* agent, int64_t connection_id,
                                             Stream* stream) {
  pb::CoordinatorMessage proto;
  while (stream->Read(&proto)) {
    heard_ = true;
    ASSIGN_OR_RETURN(CoordinatorMessage message, FromProto(proto));
    if (const auto* welcome = std::get_if<Welcome>(&message)) {
      heartbeat_interval_ms_ =
          std::clamp(welcome->heartbeat_interval_ms, 10, kMaxHeartbeatIntervalMs);
      heartbeat_timeout_ms_ = std::max(welcome->heartbeat_timeout_ms, 100);
      LogInfo("attached", {{"coordinator", options_.address}, {"worker_id", welcome->worker_id}});
    } else {
      RETURN_IF_ERROR(agent->OnMessage(connection_id, std::move(message)));
    }
  }
  // Serve replaces this error by the status with which the stream was ended.
  return absl::UnavailableError("the stream ended");
}

void CoordinatorClient::Pause(absl::Duration duration) {
  const SteadyTime end = SteadyNow() + duration;
  absl::MutexLock lock(&mutex_);
  while (!stopping() && SteadyNow() < end) stopped_.WaitUntil(&mutex_, end);
}

void CoordinatorClient::CheckSilence(PeerSilence* silence, SteadyTime now) {
  // If this process itself stood still, PeerSilence counts at most kLongestPause of that time, so
  // that the coordinator is not blamed for it.
  const absl::Duration before = silence->length();
  if (heard_.exchange(false)) silence->Heard(now);
  const absl::Duration silent = silence->Look(now);
  const absl::Duration timeout = absl::Milliseconds(heartbeat_timeout_ms_.load());
  if (timeout == absl::ZeroDuration()) return;  // there is no connection
  if (before <= kSuspectTimeout && silent > kSuspectTimeout) {
    LogWarning("the coordinator is silent", {{"silent_ms", absl::ToInt64Milliseconds(silent)}});
  }
  if (silent <= timeout) return;
  absl::MutexLock lock(&mutex_);
  if (context_ != nullptr) context_->TryCancel();
}

void CoordinatorClient::HeartbeatLoop(WorkerAgent* agent) {
  SteadyTime last = options_.clock();
  SteadyTime may_have_hung;
  PeerSilence silence(last, kLongestPause);
  while (!stopping()) {
    Pause(absl::Milliseconds(heartbeat_interval_ms_.load()));
    const SteadyTime now = options_.clock();
    // If the whole process stood still, so did the rank thread: its time limit begins anew.
    if (now - std::exchange(last, now) > kLongestPause) may_have_hung = now + options_.hang_limit;
    if (now >= may_have_hung && agent->HasHung(options_.hang_limit)) {
      LogError("the rank thread has hung in a step; exiting", {});
      FlushLog();
      _exit(70);  // EX_SOFTWARE; without destructors, which would wait for the rank thread
    }
    CheckSilence(&silence, now);
    if (heartbeat_timeout_ms_ == 0) continue;
    int64_t connection_id = 0;
    {
      absl::MutexLock lock(&mutex_);
      connection_id = connection_id_;
    }
    // If the lock is taken, another thread is writing, perhaps to a coordinator that does not read.
    // The heartbeat thread must not wait for it, since it has to notice the coordinator's silence.
    if (!write_mutex_.TryLock()) continue;
    WriteLocked(connection_id, agent->MakeHeartbeat());
    write_mutex_.Unlock();
  }
}

absl::StatusOr<std::string> LocalAddressTowards(const std::string& address) {
  const auto [host, port] = SplitHostPort(address).value_or(HostPort{});
  if (port.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat("coordinator address '", address, "' is not HOST:PORT"));
  }
  addrinfo hints = {};
  hints.ai_socktype = SOCK_DGRAM;
  addrinfo* found = nullptr;
  const int error = getaddrinfo(host.c_str(), port.c_str(), &hints, &found);
  if (error != 0) {
    return absl::UnavailableError(
        absl::StrCat("cannot resolve '", host, "': ", gai_strerror(error)));
  }
  std::string local;
  for (const addrinfo* info = found; info != nullptr && local.empty(); info = info->ai_next) {
    // Connecting a datagram socket sends nothing; it only makes the kernel choose the route.
    const UniqueFd socket_fd(socket(info->ai_family, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    if (!socket_fd.valid() || connect(socket_fd.get(), info->ai_addr, info->ai_addrlen) != 0)
      continue;
    sockaddr_storage storage = {};
    socklen_t length = sizeof(storage);
    char text[NI_MAXHOST];
    if (getsockname(socket_fd.get(), reinterpret_cast<sockaddr*>(&storage), &length) == 0 &&
        getnameinfo(reinterpret_cast<sockaddr*>(&storage), length, text, sizeof(text), nullptr, 0,
                    NI_NUMERICHOST) == 0) {
      local = text;
    }
  }
  freeaddrinfo(found);
  if (local.empty()) return absl::UnavailableError(absl::StrCat("no route to '", host, "'"));
  return local;
}

}  // namespace bora

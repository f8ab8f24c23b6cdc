#include "coordinator/worker_port/worker_service.h"

#include <grpcpp/alarm.h>
#include <grpcpp/grpcpp.h>
#include <grpcpp/impl/codegen/proto_utils.h>

#include <chrono>
#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "coordinator/grpc/api_error_status.h"
#include "coordinator/worker_port/serialize.h"
#include "coordinator/worker_port/worker_inbox.h"
#include "model/protocol/peer_text.h"
#include "model/protocol/worker_auth.h"

namespace bora {
namespace {

namespace pb = worker::v1alpha1;

// A stream whose peer has not proved that it knows the credential is a stranger. At most
// kMaxStrangers exist at a time, each for at most kHelloTimeout. As soon as the application asks
// gRPC 1.51 for a message, gRPC buffers the message until it is complete, whatever its length
// (measured: 60 MiB). Therefore a stranger's first message is read only after the header of its
// call has shown knowledge of the credential; until then gRPC buffers 64 KiB of the stream. An
// attacker that has recorded such a header can repeat it, but then fails the challenge.
constexpr size_t kMaxStrangers = 64;
constexpr std::chrono::seconds kHelloTimeout(5);
// Limit of the bytes of all messages before the worker is attached. They contain nonces, a proof,
// names and addresses.
constexpr size_t kMaxFirstBytes = 64 << 10;
// How many messages may wait for a worker that does not read; one more closes its stream. A healthy
// worker never has so many waiting: the stages bound the number of plans in flight, and at most one
// heartbeat waits at the end of the queue.
constexpr size_t kMaxQueuedMessages = 256;
// How many messages of a worker may wait for the engine. A worker sends two messages a second, five
// while it loads, and one for each of the few plans in flight: this is half a minute of messages.
constexpr int64_t kMaxWaitingMessages = 256;
// How long a worker may take to read the message under way before the status that ends its stream;
// then the stream is cancelled without a status.
constexpr std::chrono::seconds kCloseTimeout(1);

// "ipv4:10.0.0.1:5123" without the port: the same for all connections of a host.
std::string HostOf(const std::string& peer) { return peer.substr(0, peer.rfind(':')); }

}  // namespace

// One worker's stream. gRPC calls the On... functions of the reactor on its threads. The rest of
// the coordinator knows only the reactor's writer: the cluster calls it on the engine thread, the
// outbox on its own thread. The reactor lives until OnDone, the writer until the last reference to
// it is gone.
class WorkerServiceImpl::Reactor final
    : public grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer> {
 public:
  Reactor(WorkerServiceImpl* service, grpc::CallbackServerContext* context)
      : service_(service),
        context_(context),
        writer_(std::make_shared<Writer>(this, service->outbox_)),
        inbox_(std::make_shared<WorkerInbox>(kMaxWaitingMessages,
                                             (service->options_.limits.n_stages + 2) *
                                                 MaxWorkerMessageBytes(service->options_.limits))),
        auth_(service->options_.credential) {
    service_->AddStranger(writer_, context_->peer());
    hello_alarm_.Set(std::chrono::system_clock::now() + kHelloTimeout,
                     [writer = writer_](bool expired) {
                       if (expired) writer->CloseUnlessAttached();
                     });
    if (const absl::Status gate = CheckGate(); !gate.ok()) {
      writer_->Close(gate);
      return;
    }
    pb::CoordinatorMessage challenge;
    *challenge.mutable_auth_challenge() = auth_.Challenge();
    writer_->Write(Serialize(challenge), /*is_heartbeat=*/false);
    StartRead(&incoming_);
  }

  void OnReadDone(bool ok) override {
    if (!ok) {
      writer_->Close(absl::UnavailableError("the worker ended the stream"));
    } else if (const absl::Status status = TakeIncoming(); !status.ok()) {
      writer_->Close(status);
    } else {
      StartRead(&incoming_);
    }
  }

  void OnWriteDone(bool ok) override { writer_->OnWriteDone(ok); }

  void OnCancel() override { writer_->Close(absl::UnavailableError("the connection is lost")); }

  void OnDone() override {
    hello_alarm_.Cancel();
    const std::string reason = writer_->Detach();
    if (phase_ == Phase::kAttached) {
      service_->events_->OnWorkerGone(writer_, reason);
    } else {
      service_->RemoveStranger(writer_);
      if (const auto n_left_out = service_->log_rate_.Take(); n_left_out.has_value()) {
        LogWarning("stranger on the worker port",
                   {{"peer", context_->peer()}, {"reason", reason}, {"left_out", *n_left_out}});
      }
    }
    delete this;
  }

 private:
  // kAuthenticated: the worker has proved the credential; kAttached: it has also sent its hello,
  // and the engine knows the stream.
  enum class Phase { kStranger, kAuthenticated, kAttached };

  // OK if the header of the call shows knowledge of the credential. A replay also passes.
  absl::Status CheckGate() const {
    const auto header = context_->client_metadata().find(kGateHeader);
    if (header == context_->client_metadata().end()) return auth_.CheckGate("");
    return auth_.CheckGate(absl::string_view(header->second.data(), header->second.size()));
  }

  // Handles the message in incoming_. If it returns an error, the caller must end the stream with
  // that error.
  absl::Status TakeIncoming() {
    const int64_t n_bytes = static_cast<int64_t>(incoming_.Length());
    std::shared_ptr<void> receipt;
    if (phase_ == Phase::kAttached) {
      receipt = inbox_->Take(n_bytes);
      if (receipt == nullptr) {
        return absl::ResourceExhaustedError(
            absl::StrCat("the worker sends faster than it is listened to: ", kMaxWaitingMessages,
                         " messages or as many bytes wait"));
      }
    } else if (n_first_bytes_ += incoming_.Length(); n_first_bytes_ > kMaxFirstBytes) {
      return absl::InvalidArgumentError(
          absl::StrCat("the first messages of a worker have at most ", kMaxFirstBytes, " bytes"));
    }
    pb::WorkerMessage proto;
    if (!grpc::SerializationTraits<pb::WorkerMessage>::Deserialize(&incoming_, &proto).ok()) {
      return absl::InvalidArgumentError("a worker message that cannot be parsed");
    }
    if (phase_ == Phase::kStranger) return Authenticate(proto);
    ASSIGN_OR_RETURN(WorkerMessage message, FromProto(proto, service_->options_.limits));
    if (phase_ == Phase::kAttached) {
      service_->events_->OnWorkerMessage(writer_, std::move(message), std::move(receipt));
      return absl::OkStatus();
    }
    auto* hello = std::get_if<Hello>(&message);
    if (hello == nullptr) {
      return absl::FailedPreconditionError("the first message of a worker must be hello");
    }
    phase_ = Phase::kAttached;
    writer_->SetAttached();
    service_->events_->OnWorkerAttached(writer_, std::move(*hello));
    return absl::OkStatus();
  }

  // Checks the worker's answer to the challenge and sends the coordinator's own proof.
  absl::Status Authenticate(const pb::WorkerMessage& proto) {
    if (!proto.has_auth_response()) {
      return absl::UnauthenticatedError("a worker must answer the challenge first");
    }
    ASSIGN_OR_RETURN(const pb::AuthConfirmation confirmation, auth_.Check(proto.auth_response()));
    phase_ = Phase::kAuthenticated;
    service_->RemoveStranger(writer_);
    pb::CoordinatorMessage answer;
    *answer.mutable_auth_confirmation() = confirmation;
    writer_->Write(Serialize(answer), /*is_heartbeat=*/false);
    return absl::OkStatus();
  }

  // Writes to the stream, one message at a time, and closes it. Thread-safe.
  class Writer final : public WorkerStream,
                       public WireSink,
                       public std::enable_shared_from_this<Writer> {
   public:
    Writer(Reactor* reactor, std::shared_ptr<WorkerOutbox> outbox)
        : outbox_(std::move(outbox)), reactor_(reactor) {}

    void Send(CoordinatorMessage message) override {
      outbox_->Post(shared_from_this(), std::move(message));
    }
    void SendPlan(std::shared_ptr<const StepPlan> plan) override {
      outbox_->Post(shared_from_this(), std::move(plan));
    }

    void Write(grpc::ByteBuffer message, bool is_heartbeat) override {
      absl::MutexLock lock(&mutex_);
      if (reactor_ == nullptr || closing_) return;
      // Several waiting heartbeats would tell the worker no more than one does.
      if (is_heartbeat && ends_in_heartbeat_ && !queue_.empty()) return;
      if (queue_.size() >= kMaxQueuedMessages) {
        CloseLocked(absl::ResourceExhaustedError(
            absl::StrCat("the worker does not read: ", queue_.size(), " messages wait")));
        return;
      }
      queue_.push_back(std::move(message));
      ends_in_heartbeat_ = is_heartbeat;
      if (!writing_) WriteNextLocked();
    }

    void Close(absl::Status reason) override {
      absl::MutexLock lock(&mutex_);
      CloseLocked(std::move(reason));
    }

    void CloseUnlessAttached() {
      absl::MutexLock lock(&mutex_);
      if (!attached_) CloseLocked(absl::DeadlineExceededError("no hello within 5 s"));
    }

    void SetAttached() {
      absl::MutexLock lock(&mutex_);
      attached_ = true;
    }

    void CancelIfOpen() {
      absl::MutexLock lock(&mutex_);
      if (reactor_ != nullptr && !finished_) reactor_->context_->TryCancel();
    }

    void OnWriteDone(bool ok) {
      absl::MutexLock lock(&mutex_);
      writing_ = false;
      if (reactor_ == nullptr) return;
      if (closing_) {
        FinishLocked();
      } else if (!ok) {
        CloseLocked(absl::UnavailableError("writing to the worker failed"));
      } else if (!queue_.empty()) {
        WriteNextLocked();
      }
    }

    // To be called before the reactor is deleted: the writer does not use it any more. Returns the
    // reason why the stream has ended, for people.
    std::string Detach() {
      absl::MutexLock lock(&mutex_);
      reactor_ = nullptr;
      queue_.clear();
      close_alarm_.Cancel();
      return std::string(reason_.message());
    }

   private:
    void WriteNextLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
      outgoing_.Swap(&queue_.front());
      queue_.pop_front();
      writing_ = true;
      reactor_->StartWrite(&outgoing_);
    }

    // Drops waiting messages and ends the stream after the write under way, if there is one. The
    // first reason counts.
    void CloseLocked(absl::Status reason) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
      if (reactor_ == nullptr || closing_) return;
      closing_ = true;
      reason_ = std::move(reason);
      queue_.clear();
      if (!writing_) {
        FinishLocked();
      } else {
        // The write may never end if the worker has stopped reading. The alarm holds a weak
        // pointer: it is a member of the writer and keeps its function even after running it, so
        // that a shared pointer would keep the writer alive for ever.
        close_alarm_.Set(std::chrono::system_clock::now() + kCloseTimeout,
                         [weak_self = weak_from_this()](bool expired) {
                           const std::shared_ptr<Writer> self = weak_self.lock();
                           if (expired && self != nullptr) self->CancelIfOpen();
                         });
      }
    }

    void FinishLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
      if (std::exchange(finished_, true)) return;
      reactor_->Finish(grpc::Status(ToGrpcCode(reason_.code()),
                                    PeerText(reason_.message(), kMaxPeerReasonBytes)));
    }

    const std::shared_ptr<WorkerOutbox> outbox_;
    absl::Mutex mutex_;
    Reactor* reactor_ ABSL_GUARDED_BY(mutex_);
    std::deque<grpc::ByteBuffer> queue_ ABSL_GUARDED_BY(mutex_);
    // The last message that was put into queue_ is a heartbeat.
    bool ends_in_heartbeat_ ABSL_GUARDED_BY(mutex_) = false;
    grpc::ByteBuffer outgoing_ ABSL_GUARDED_BY(mutex_);  // the message of the write under way
    bool writing_ ABSL_GUARDED_BY(mutex_) = false;       // a write is under way
    bool closing_ ABSL_GUARDED_BY(mutex_) = false;       // no new message is taken
    bool finished_ ABSL_GUARDED_BY(mutex_) = false;      // Finish was called
    bool attached_ ABSL_GUARDED_BY(mutex_) = false;      // the worker has sent its hello
    grpc::Alarm close_alarm_ ABSL_GUARDED_BY(mutex_);    // ends a close that takes too long
    absl::Status reason_ ABSL_GUARDED_BY(mutex_);        // why the stream is closed
  };

  WorkerServiceImpl* const service_;
  grpc::CallbackServerContext* const context_;
  const std::shared_ptr<Writer> writer_;
  const std::shared_ptr<WorkerInbox> inbox_;
  const CoordinatorAuth auth_;
  grpc::Alarm hello_alarm_;
  // Used only by the gRPC thread that reads; gRPC runs one read at a time.
  grpc::ByteBuffer incoming_;
  Phase phase_ = Phase::kStranger;
  size_t n_first_bytes_ = 0;
};

WorkerServiceImpl::WorkerServiceImpl(WorkerServiceOptions options, WorkerEvents* events)
    : options_(std::move(options)),
      events_(events),
      outbox_(std::make_shared<WorkerOutbox>()),
      strangers_(kMaxStrangers) {}

grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>* WorkerServiceImpl::Attach(
    grpc::CallbackServerContext* context) {
  return new Reactor(this, context);
}

void WorkerServiceImpl::AddStranger(const std::shared_ptr<WorkerStream>& stream,
                                    const std::string& peer) {
  std::optional<std::shared_ptr<WorkerStream>> displaced;
  {
    absl::MutexLock lock(&mutex_);
    displaced = strangers_.Add(stream, HostOf(peer));
  }
  if (!displaced.has_value()) return;
  (*displaced)
      ->Close(absl::ResourceExhaustedError(absl::StrCat(
          "more than ", kMaxStrangers, " streams have not authenticated: the oldest one goes")));
}

void WorkerServiceImpl::RemoveStranger(const std::shared_ptr<WorkerStream>& stream) {
  absl::MutexLock lock(&mutex_);
  strangers_.Remove(stream);
}

}  // namespace bora

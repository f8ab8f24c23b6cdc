#include "coordinator/worker_service.h"

#include <grpcpp/alarm.h>
#include <grpcpp/grpcpp.h>

#include <chrono>
#include <deque>
#include <memory>
#include <string>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "base/log.h"
#include "coordinator/api_error_status.h"
#include "model/worker_codec.h"

namespace bora {
namespace {

namespace pb = worker::v1alpha1;

// A stream that has not said hello is a stranger: few of them, and not for long.
constexpr int kMaxStrangers = 64;
constexpr std::chrono::seconds kHelloTimeout(5);
// Messages that wait for a worker that does not read. Plans in flight are bounded by the lanes,
// heartbeats by the heartbeat timeout.
constexpr size_t kMaxQueuedMessages = 256;

}  // namespace

// One worker's stream. gRPC calls the On... functions on its threads; the cluster calls the link on
// the engine thread. The reactor lives until OnDone, the link as long as anybody holds it.
class WorkerServiceImpl::Stream final
    : public grpc::ServerBidiReactor<pb::WorkerMessage, pb::CoordinatorMessage> {
 public:
  Stream(WorkerServiceImpl* service, grpc::CallbackServerContext* context)
      : service_(service), context_(context), link_(std::make_shared<Link>(this)) {
    ++service_->n_streams_;
    if (service_->n_strangers_.fetch_add(1) >= kMaxStrangers) {
      link_->Close(absl::ResourceExhaustedError(
          absl::StrCat("more than ", kMaxStrangers, " streams have not said hello")));
      return;
    }
    hello_alarm_.Set(std::chrono::system_clock::now() + kHelloTimeout,
                     [link = link_](bool expired) {
                       if (expired) link->CloseIfStranger();
                     });
    StartRead(&incoming_);
  }

  void OnReadDone(bool ok) override {
    if (!ok) {
      link_->Close(absl::UnavailableError("the worker ended the stream"));
      return;
    }
    absl::StatusOr<WorkerMessage> message = FromProto(incoming_);
    if (!message.ok()) {
      link_->Close(message.status());
      return;
    }
    if (attached_) {
      service_->engine_->OnWorkerMessage(link_, *std::move(message));
    } else if (auto* hello = std::get_if<Hello>(&*message)) {
      attached_ = true;
      --service_->n_strangers_;
      link_->StopBeingStranger();
      service_->engine_->OnWorkerAttached(link_, std::move(*hello));
    } else {
      link_->Close(absl::FailedPreconditionError("the first message of a worker must be hello"));
      return;
    }
    StartRead(&incoming_);
  }

  void OnWriteDone(bool ok) override { link_->OnWriteDone(ok); }

  void OnCancel() override { link_->Close(absl::UnavailableError("the connection is lost")); }

  void OnDone() override {
    hello_alarm_.Cancel();
    const std::string reason = link_->Detach();
    if (attached_) {
      service_->engine_->OnWorkerGone(link_, reason);
    } else {
      --service_->n_strangers_;
      LogWarning("stranger on the worker port", {{"peer", context_->peer()}, {"reason", reason}});
    }
    --service_->n_streams_;
    delete this;
  }

 private:
  // Thread-safe.
  class Link final : public WorkerLink {
   public:
    explicit Link(Stream* stream) : stream_(stream) {}

    void Send(CoordinatorMessage message) override {
      absl::MutexLock lock(&mutex_);
      if (stream_ == nullptr || closing_) return;
      if (queue_.size() >= kMaxQueuedMessages) {
        CloseLocked(absl::ResourceExhaustedError(
            absl::StrCat("the worker does not read: ", queue_.size(), " messages wait")));
        return;
      }
      queue_.push_back(std::move(message));
      if (!writing_) WriteNextLocked();
    }

    void Close(absl::Status reason) override {
      absl::MutexLock lock(&mutex_);
      CloseLocked(std::move(reason));
    }

    void CloseIfStranger() {
      absl::MutexLock lock(&mutex_);
      if (stranger_) CloseLocked(absl::DeadlineExceededError("no hello within 5 s"));
    }

    void StopBeingStranger() {
      absl::MutexLock lock(&mutex_);
      stranger_ = false;
    }

    void OnWriteDone(bool ok) {
      absl::MutexLock lock(&mutex_);
      writing_ = false;
      if (stream_ == nullptr) return;
      if (closing_) {
        FinishLocked();
      } else if (!ok) {
        CloseLocked(absl::UnavailableError("writing to the worker failed"));
      } else if (!queue_.empty()) {
        WriteNextLocked();
      }
    }

    // The stream is going away; returns why.
    std::string Detach() {
      absl::MutexLock lock(&mutex_);
      stream_ = nullptr;
      queue_.clear();
      return std::string(reason_.message());
    }

   private:
    void WriteNextLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
      ToProto(queue_.front(), &outgoing_);
      queue_.pop_front();
      writing_ = true;
      stream_->StartWrite(&outgoing_);
    }

    void CloseLocked(absl::Status reason) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
      if (stream_ == nullptr || closing_) return;
      closing_ = true;
      reason_ = std::move(reason);
      queue_.clear();
      if (!writing_) {
        FinishLocked();
      } else {
        // The write may never end when the worker has stopped reading.
        stream_->context_->TryCancel();
      }
    }

    void FinishLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
      if (std::exchange(finished_, true)) return;
      stream_->Finish(grpc::Status(ToGrpcCode(reason_.code()), std::string(reason_.message())));
    }

    absl::Mutex mutex_;
    Stream* stream_ ABSL_GUARDED_BY(mutex_);
    std::deque<CoordinatorMessage> queue_ ABSL_GUARDED_BY(mutex_);
    pb::CoordinatorMessage outgoing_ ABSL_GUARDED_BY(mutex_);
    bool writing_ ABSL_GUARDED_BY(mutex_) = false;
    bool closing_ ABSL_GUARDED_BY(mutex_) = false;
    bool finished_ ABSL_GUARDED_BY(mutex_) = false;
    bool stranger_ ABSL_GUARDED_BY(mutex_) = true;
    absl::Status reason_ ABSL_GUARDED_BY(mutex_);
  };

  WorkerServiceImpl* const service_;
  grpc::CallbackServerContext* const context_;
  const std::shared_ptr<Link> link_;
  grpc::Alarm hello_alarm_;
  pb::WorkerMessage incoming_;
  bool attached_ = false;
};

grpc::ServerBidiReactor<pb::WorkerMessage, pb::CoordinatorMessage>* WorkerServiceImpl::Attach(
    grpc::CallbackServerContext* context) {
  return new Stream(this, context);
}

}  // namespace bora

// One call of Generate or GenerateStream, from its request to its end: admission, sending the
// answer, pausing and resuming the engine, cancellation, deadline, stall and the line in the access
// log. It does not depend on gRPC: a CallTransport carries its messages.
//
// Threads: the transport's threads call Start, RunLater, Admit, Fail and the events OnSendDone,
// OnCancel and OnDone; the engine thread calls OnDelta and OnError; the pump's thread calls Pump
// and CutIfStalled. One mutex guards the state. The transport's operations are called under the
// mutex, the engine's functions outside of it, so that the engine thread may take the mutex.
//
// Life: the transport holds the call until OnDone. Engine, pump and task pool hold it as long as
// they need it; after OnDone the call ignores whatever they deliver.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "base/clock.h"
#include "bora/inference/v1/inference_service.pb.h"
#include "coordinator/api/api_error.h"
#include "coordinator/api/request_spec.h"
#include "coordinator/call/answer_parts.h"
#include "coordinator/call/call_pump.h"
#include "coordinator/call/call_record.h"
#include "coordinator/call/call_services.h"
#include "coordinator/call/call_transport.h"

namespace bora {

// Thread-safe.
class GenerateCall final : public RequestObserver,
                           public Pumped,
                           public std::enable_shared_from_this<GenerateCall> {
 public:
  // A call that streams: it sends the engine's deltas as they come, and pauses the engine while
  // more than kMaxStreamMessageBytes wait for the client.
  //
  // `record` has the facts that the transport knows before the request is read. `transport` and
  // `services` must live until OnDone has returned. REQUIRES: a shared_ptr holds the object.
  GenerateCall(CallRecord record, StreamTransport* transport, const CallServices& services);
  // A call that gathers the whole answer and sends it at the end.
  GenerateCall(CallRecord record, AnswerTransport* transport, const CallServices& services);

  // Registers the call with the pump. REQUIRES: no other function was called before.
  void Start();
  // Runs `task`, which must end by calling Admit or Fail, on a thread of the task pool. The task is
  // dropped if the call is cancelled before the task's turn. If too many tasks wait, the call fails
  // with QUEUE_FULL.
  void RunLater(std::function<void()> task);
  // Validates the request and submits it to the engine; the call fails if either refuses it.
  // Tokenizes the prompt on the calling thread. If the request has a valid request id, that id
  // replaces the record's. REQUIRES: neither Admit nor Fail was called before.
  void Admit(const inference::v1::GenerateStreamRequest& request);
  // The same for the request of a whole answer.
  void Admit(const inference::v1::GenerateRequest& request);
  // Ends the call with the error. REQUIRES: the engine has not admitted the request.
  void Fail(ApiError error);

  // Events of the transport.

  // The Send under way has ended. If not `ok`, the client cannot be reached any more, and the call
  // is cancelled.
  void OnSendDone(bool ok);
  // The client is gone or the call's deadline has passed; whether the record's deadline has passed
  // decides which of them is logged. Cancels the request in the engine.
  void OnCancel();
  // No operation of the call is under way any more. Writes the line of the access log. The call
  // does not use the transport after that.
  void OnDone();

  // RequestObserver.
  bool OnDelta(OutputDelta delta) override;
  void OnError(ApiError error) override;
  // Pumped.
  void Pump() override;
  void CutIfStalled(SteadyTime oldest) override;

 private:
  // The function of the engine that is to be called after the mutex has been released.
  enum class EngineCall { kNone, kResume, kCancel };

  // The common constructor: `transport` is `stream` or `answer`, and the other one is null.
  GenerateCall(CallRecord record, StreamTransport* stream, AnswerTransport* answer,
               CallTransport* transport, const CallServices& services);

  // Both forms of Admit. The mutex is not held while the prompt is tokenized.
  template <typename Request>
  void AdmitRequest(const Request& request);
  // Stores the engine's handle. Calls to the engine that were due before the handle was known are
  // made now.
  void SetHandle(uint64_t handle);
  // Calls the engine's function for this request; nothing if the handle is not known yet.
  void Tell(EngineCall call);

  // Starts the next operation if none is under way: sends what is ready, or ends the call. Returns
  // kResume if the engine is paused and few bytes are left to send.
  EngineCall Advance() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Sends the next message of a stream, or the whole answer.
  void SendNext() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Ends the call with the error. Without an error, ends a call that has been cancelled.
  void Finish(const std::optional<ApiError>& error) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // To be called before each operation of the transport: notes its start for CutIfStalled, and sets
  // the request id before the first one.
  void BeginOperation() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Marks the call as cancelled. Returns kCancel unless the engine has ended the request already.
  EngineCall MarkCancelled() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Makes the pump's thread call Pump, which calls Advance.
  void KickPump() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const CallServices& services_;
  // The transport by its type; the other pointer is null. Not to be used after OnDone.
  StreamTransport* const stream_;
  AnswerTransport* const answer_;

  absl::Mutex mutex_;
  CallTransport* transport_ ABSL_GUARDED_BY(mutex_);  // stream_ or answer_; null after OnDone
  CallRecord record_ ABSL_GUARDED_BY(mutex_);
  std::optional<AnswerParts> parts_ ABSL_GUARDED_BY(mutex_);  // set once the request is valid
  std::optional<ApiError> error_ ABSL_GUARDED_BY(mutex_);     // the error that the call ends with
  uint64_t handle_ ABSL_GUARDED_BY(mutex_) = 0;               // the engine's; 0: not known yet
  // The engine has delivered the last delta or an error, or has never had the request.
  bool engine_ended_ ABSL_GUARDED_BY(mutex_) = false;
  bool paused_ ABSL_GUARDED_BY(mutex_) = false;         // OnDelta returned false
  bool kicked_ ABSL_GUARDED_BY(mutex_) = false;         // a Kick waits for its Pump
  bool sending_ ABSL_GUARDED_BY(mutex_) = false;        // a Send has not ended
  bool finished_ ABSL_GUARDED_BY(mutex_) = false;       // the last operation was started
  bool cancelled_ ABSL_GUARDED_BY(mutex_) = false;      // by client, deadline or stall
  bool has_told_id_ ABSL_GUARDED_BY(mutex_) = false;    // SetRequestId was called
  SteadyTime operation_start_ ABSL_GUARDED_BY(mutex_);  // of the latest operation
  // The message to send; a member, so that its memory is used again.
  inference::v1::GenerateStreamResponse message_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace bora

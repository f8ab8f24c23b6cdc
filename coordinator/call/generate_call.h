// One call of Generate or GenerateStream, from its request to its end: admission, the answer on its
// way to the client, pause and resume of the engine, cancellation, deadline, stall and the line of
// the access log. It knows no wire: a CallTransport carries its messages.
//
// Threads: the transport's call Start, Admit, Fail and the On... events; the engine's OnDelta and
// OnError; the pump's Pump and CutIfStalled. They share the state under one mutex. The transport is
// asked for operations under the mutex, the engine is called outside of it. Life: the transport
// holds the call until OnDone; engine, pump and task pool hold it while they need it, and after
// OnDone the call ignores what they say.
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
  // `record` says what the transport knows of the call before its request is read; `transport` and
  // `services` outlive OnDone. The object must be held by a shared_ptr.
  //
  // A call with a StreamTransport passes the engine's deltas on as they come, and holds the engine
  // back while more than kMaxStreamMessageBytes wait for the client.
  GenerateCall(CallRecord record, StreamTransport* transport, const CallServices& services);
  // A call with an AnswerTransport gathers the whole answer.
  GenerateCall(CallRecord record, AnswerTransport* transport, const CallServices& services);

  // The pump watches over the call from now on. REQUIRES: nothing else of the call was called.
  void Start();
  // Runs `task`, which ends in Admit or Fail, on a thread of the task pool, unless the call is
  // cancelled before its turn. The call fails with QUEUE_FULL if too many tasks wait.
  void RunLater(std::function<void()> task);
  // Validates the request and submits it to the engine; tokenizes the prompt on the calling thread.
  // The request id of the request overrides the record's if it is valid.
  // REQUIRES: Admit or Fail is called once at most.
  void Admit(const inference::v1::GenerateStreamRequest& request);
  // The same for the request of a whole answer.
  void Admit(const inference::v1::GenerateRequest& request);
  // Ends a call that the engine does not know with the error.
  void Fail(ApiError error);

  // Events of the transport.
  // The operation under way has ended; unless `ok`, the client is out of reach.
  void OnSendDone(bool ok);
  // The client is gone or the call's deadline has passed; the record's deadline tells which.
  void OnCancel();
  // Nothing of the call is under way any more. The transport is not used after that.
  void OnDone();

  // RequestObserver.
  bool OnDelta(OutputDelta delta) override;
  void OnError(ApiError error) override;
  // Pumped.
  void Pump() override;
  void CutIfStalled(SteadyTime oldest) override;

 private:
  // What is to be told to the engine after the mutex is released.
  enum class EngineCall { kNone, kResume, kCancel };

  GenerateCall(CallRecord record, StreamTransport* stream, AnswerTransport* answer,
               CallTransport* transport, const CallServices& services);

  template <typename Request>
  void AdmitRequest(const Request& request);
  // Stores the engine's handle, and makes up for the events that came before it was known.
  void SetHandle(uint64_t handle);
  void Tell(EngineCall call);

  // Starts the next operation if none is under way and there is something to send.
  EngineCall Advance() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Sends the next message of a stream, or the whole answer.
  void SendNext() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Ends the call with the error, or, without one, a call that nobody listens to.
  void Finish(const std::optional<ApiError>& error) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Before each operation of the transport: its start, and once the request's id.
  void BeginOperation() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Marks the call as cancelled; what the engine is to be told.
  EngineCall MarkCancelled() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Has Advance called on the pump's thread.
  void KickPump() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const CallServices& services_;
  // One of the two is null. The other is gone after OnDone.
  StreamTransport* const stream_;
  AnswerTransport* const answer_;

  absl::Mutex mutex_;
  CallTransport* transport_ ABSL_GUARDED_BY(mutex_);  // stream_ or answer_; null after OnDone
  CallRecord record_ ABSL_GUARDED_BY(mutex_);
  std::optional<AnswerParts> parts_ ABSL_GUARDED_BY(mutex_);  // once the request is valid
  std::optional<ApiError> error_ ABSL_GUARDED_BY(mutex_);     // how the call is to end
  uint64_t handle_ ABSL_GUARDED_BY(mutex_) = 0;               // the engine's; 0: not known yet
  bool engine_ended_ ABSL_GUARDED_BY(mutex_) = false;         // the engine has said its last word
  bool paused_ ABSL_GUARDED_BY(mutex_) = false;               // OnDelta said false
  bool kicked_ ABSL_GUARDED_BY(mutex_) = false;               // the pump has it in its list
  bool sending_ ABSL_GUARDED_BY(mutex_) = false;              // a Send has not ended
  bool finished_ ABSL_GUARDED_BY(mutex_) = false;             // the last operation was started
  bool cancelled_ ABSL_GUARDED_BY(mutex_) = false;            // by client, deadline or stall
  bool has_told_id_ ABSL_GUARDED_BY(mutex_) = false;          // SetRequestId was called
  SteadyTime operation_start_ ABSL_GUARDED_BY(mutex_);        // of the latest operation
  inference::v1::GenerateStreamResponse message_ ABSL_GUARDED_BY(mutex_);  // keeps its memory
};

}  // namespace bora

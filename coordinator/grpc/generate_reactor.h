// One Generate or GenerateStream call: the gRPC reactor and the engine's observer in one object.
//
// Threads: gRPC's call Start, OnWriteDone, OnCancel and OnDone; the engine's OnDelta and OnError;
// the pump's Pump and CutIfStalled. All share the state under one mutex; gRPC operations are
// started under it (their callbacks never run inside the call that starts them) and the engine is
// called outside it. Life: the object holds itself from Start to OnDone; the engine and the pump
// hold it while they need it, and after OnDone it ignores them.
#pragma once

#include <grpcpp/server_context.h>
#include <grpcpp/support/byte_buffer.h>
#include <grpcpp/support/server_callback.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <variant>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "base/clock.h"
#include "coordinator/api/access_log.h"
#include "coordinator/api/call_record.h"
#include "coordinator/api/generator.h"
#include "coordinator/api/request_spec.h"
#include "coordinator/api/request_validator.h"
#include "coordinator/api/task_pool.h"
#include "coordinator/grpc/answer_parts.h"
#include "coordinator/grpc/reactor_pump.h"

namespace bora {

// What calls share. All of it outlives them.
struct CallServices {
  Generator* engine = nullptr;
  const RequestValidator* validator = nullptr;
  ReactorPump* pump = nullptr;
  TaskPool* tasks = nullptr;
  std::atomic<int64_t>* n_live_calls = nullptr;
  AccessLog* access_log = nullptr;
  absl::Duration slow_reader_timeout;
};

class GenerateReactor : public RequestObserver,
                        public Pumped,
                        public std::enable_shared_from_this<GenerateReactor> {
 public:
  // Takes the call on. The object must be held by a shared_ptr.
  void Start(const grpc::CallbackServerContext& context, const grpc::ByteBuffer& request);

  // RequestObserver.
  bool OnDelta(OutputDelta delta) final;
  void OnError(ApiError error) final;
  // Pumped.
  void Pump() final;
  void CutIfStalled(SteadyTime oldest) final;

 protected:
  // A stream passes deltas on and holds the engine back when the client is slow; else the whole
  // answer is gathered.
  enum class Kind { kWhole, kStream };
  GenerateReactor(Kind kind, const char* method, grpc::CallbackServerContext* context,
                  const CallServices& services);

  // For the reactions of the same names.
  void HandleWriteDone(bool ok);
  void HandleCancel();
  void HandleDone();

  // Parses and validates; sets *request_id if the message has a valid one.
  virtual std::variant<ValidatedRequest, ApiError> Validate(const grpc::ByteBuffer& request,
                                                            CallFacts* call) = 0;
  // Writes what `buffer` has: starts a write, or writes the last message and finishes. True if that
  // was the last operation.
  virtual bool WriteNext(AnswerParts* buffer) = 0;
  // Finishes without a message.
  virtual void FinishWith(const grpc::Status& status) = 0;

  const CallServices& services() const { return services_; }

 private:
  // What is to be told to the engine after the mutex is released.
  enum class EngineCall { kNone, kResume, kCancel };

  void Admit(const grpc::ByteBuffer& request);
  // Puts the handle in place, and makes up for what came before it.
  void SetHandle(uint64_t handle);
  void Fail(ApiError error);
  void Tell(EngineCall call);

  // Starts the next operation if none is under way and there is something to send.
  EngineCall Advance() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void FinishCall(const std::optional<ApiError>& error) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // The request's id in the trailers, once; before the operation that sends them.
  void AddTrailer() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Has Advance called on the pump's thread.
  void KickPump() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const Kind kind_;
  const CallServices& services_;
  std::shared_ptr<GenerateReactor> self_;  // from Start to OnDone

  absl::Mutex mutex_;
  grpc::CallbackServerContext* context_ ABSL_GUARDED_BY(mutex_);  // null after OnDone
  CallRecord record_ ABSL_GUARDED_BY(mutex_);
  std::optional<AnswerParts> buffer_ ABSL_GUARDED_BY(mutex_);
  std::optional<ApiError> error_ ABSL_GUARDED_BY(mutex_);  // how the call is to end
  uint64_t handle_ ABSL_GUARDED_BY(mutex_) = 0;            // the engine's; 0 before it is known
  bool engine_ended_ ABSL_GUARDED_BY(mutex_) = false;      // the engine has said its last word
  bool paused_ ABSL_GUARDED_BY(mutex_) = false;            // OnDelta said false
  bool kicked_ ABSL_GUARDED_BY(mutex_) = false;            // the pump has it in its list
  bool writing_ ABSL_GUARDED_BY(mutex_) = false;           // a write has not ended
  bool finished_ ABSL_GUARDED_BY(mutex_) = false;          // Finish was called
  bool cancelled_ ABSL_GUARDED_BY(mutex_) = false;         // by client, deadline or us
  bool has_trailer_ ABSL_GUARDED_BY(mutex_) = false;
  SteadyTime operation_start_ ABSL_GUARDED_BY(mutex_);  // of the write or finish under way
};

// The reactor of a Generate call. `response` lives as long as the call.
grpc::ServerUnaryReactor* StartGenerate(grpc::CallbackServerContext* context,
                                        const grpc::ByteBuffer& request, grpc::ByteBuffer* response,
                                        const CallServices& services);

// The reactor of a GenerateStream call.
grpc::ServerWriteReactor<grpc::ByteBuffer>* StartGenerateStream(
    grpc::CallbackServerContext* context, const grpc::ByteBuffer& request,
    const CallServices& services);

}  // namespace bora

// What GenerateCall needs of the transport that carries the call, for example of a gRPC reactor.
//
// A transport makes the GenerateCall (generate_call.h) when a call arrives, and tells it:
//   - the request, once: Admit, or Fail if the request cannot be read; RunLater runs the task that
//     reads a large request on a thread of the task pool;
//   - OnSendDone when a Send has ended;
//   - OnCancel when the client is gone or the call's deadline has passed;
//   - OnDone when nothing of the call is under way any more; the transport may be deleted then.
//
// The call asks the transport for operations, one at a time: several Send, then one that ends the
// call (SendLast, FinishWithError or FinishUnheard). Reset may come while an operation is under
// way. The call holds its mutex meanwhile, so that a transport must not call back from inside; any
// thread may be the caller.
#pragma once

#include <string>

#include "bora/inference/v1/inference_service.pb.h"
#include "coordinator/api/api_error.h"

namespace bora {

// The operations that streams and whole answers have in common.
class CallTransport {
 public:
  virtual ~CallTransport() = default;

  // The request's id, for the client to see; called once, before any of the operations.
  virtual void SetRequestId(const std::string& request_id) = 0;
  // Ends the call with the error. OnSendDone need not follow.
  virtual void FinishWithError(const ApiError& error) = 0;
  // Ends a call that the client, the deadline or Reset has ended already, so that nothing that is
  // said of its end is heard. OnSendDone need not follow.
  virtual void FinishUnheard() = 0;
  // Breaks off the operation under way, which does not end because the client does not read; the
  // client sees the error's code and message, as far as that is possible. OnCancel follows.
  virtual void Reset(const ApiError& error) = 0;
};

// Carries a stream of messages.
class StreamTransport : public CallTransport {
 public:
  // Starts to send a message, which is only valid during this call; OnSendDone follows.
  virtual void Send(const inference::v1::GenerateStreamResponse& message) = 0;
  // The same for the last message, and ends the call with success. OnSendDone need not follow.
  virtual void SendLast(const inference::v1::GenerateStreamResponse& message) = 0;
};

// Carries one whole answer.
class AnswerTransport : public CallTransport {
 public:
  // Starts to send the answer, which is only valid during this call, and ends the call with
  // success. OnSendDone need not follow.
  virtual void SendLast(const inference::v1::GenerateResponse& answer) = 0;
};

}  // namespace bora

// The interface between GenerateCall and the transport that carries the call (a gRPC reactor).
//
// The transport creates the GenerateCall (generate_call.h) when a call arrives, and then calls:
//   - Admit with the request, or Fail if the request cannot be read, once. RunLater runs the task
//     that reads a large request on a thread of the task pool;
//   - OnSendDone when a Send has ended;
//   - OnCancel when the client is gone or the call's deadline has passed;
//   - OnDone when no operation of the call is under way any more; the transport may be deleted
//     after it.
//
// The call asks the transport for operations, one at a time: any number of Send, then one operation
// that ends the call (SendLast, FinishWithError or FinishUnheard). Only Reset may come while
// another operation is under way. The call holds its mutex while it calls the transport, so a
// transport must not call back from inside an operation. Operations may come on any thread.
#pragma once

#include <string>

#include "bora/inference/v1/inference_service.pb.h"
#include "coordinator/api/api_error.h"

namespace bora {

// The operations that streams and whole answers have in common.
class CallTransport {
 public:
  virtual ~CallTransport() = default;

  // Sets the request id that the client is told. Called once, before any of the operations.
  virtual void SetRequestId(const std::string& request_id) = 0;
  // Ends the call with the error. OnSendDone need not follow.
  virtual void FinishWithError(const ApiError& error) = 0;
  // Ends a call that the client, the deadline or Reset has already ended for the client, which
  // therefore receives no status of this operation. OnSendDone need not follow.
  virtual void FinishUnheard() = 0;
  // Breaks off the operation under way, which does not end because the client does not read. The
  // client gets the error's code and message if the transport can still send them. OnCancel
  // follows.
  virtual void Reset(const ApiError& error) = 0;
};

// Carries a stream of messages.
class StreamTransport : public CallTransport {
 public:
  // Starts to send a message; OnSendDone follows. The reference is valid only until Send returns.
  virtual void Send(const inference::v1::GenerateStreamResponse& message) = 0;
  // Sends the last message, as Send does, and ends the call with the code OK. OnSendDone need not
  // follow.
  virtual void SendLast(const inference::v1::GenerateStreamResponse& message) = 0;
};

// Carries one whole answer.
class AnswerTransport : public CallTransport {
 public:
  // Starts to send the answer and ends the call with the code OK. The reference is valid only until
  // SendLast returns. OnSendDone need not follow.
  virtual void SendLast(const inference::v1::GenerateResponse& answer) = 0;
};

}  // namespace bora

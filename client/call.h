// One call of the command-line client to the server: its deadline, its cancellation by a signal,
// and the report of its failure. Except where a function says otherwise, for the main thread only.
#pragma once

#include <google/protobuf/message.h>
#include <grpcpp/grpcpp.h>

#include <string>

#include "client/commands.h"

namespace bora {

// The gRPC context of one call, with the deadline of --timeout. While it lives, CancelCurrentCall()
// cancels the call. At most one exists at a time. If CancelCurrentCall() was called earlier, the
// call is cancelled from the start.
class CallScope {
 public:
  // Sets the deadline to global.timeout from now; none if the timeout is infinite.
  explicit CallScope(const GlobalOptions& global);
  ~CallScope();
  CallScope(const CallScope&) = delete;
  CallScope& operator=(const CallScope&) = delete;
  // The context for the call; owned by this object.
  grpc::ClientContext* get() { return &context_; }

 private:
  grpc::ClientContext context_;
};

// Whether CancelCurrentCall() was called in this process. Thread-safe.
bool WasCancelled();

// Returns one line that helps if `server` (HOST:PORT or unix:PATH) cannot be reached: either that
// its name does not resolve, or the question whether a server listens at that address. May block
// while the name is looked up. Thread-safe.
std::string WhyUnreachable(const std::string& server);

// Prints a failed call, to stderr or with --json as one object to stdout, and returns the exit
// code: kExitUnavailable for UNAVAILABLE, else kExitFailed. A call cancelled by a signal prints
// nothing and gives kExitInterrupted. REQUIRES: `status` is not OK.
int Report(const GlobalOptions& global, const grpc::Status& status);

// Prints the message as one line of JSON to stdout, with the field names of the .proto files.
// Prints scalar fields that have their default value only if `print_zeros`. A message that cannot
// be converted is printed as {}.
void PrintJson(const google::protobuf::Message& message, bool print_zeros = false);

}  // namespace bora

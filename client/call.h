// One call of the command-line client: its deadline, its cancellation by a
// signal, and what is said of its failure.
#pragma once

#include <google/protobuf/message.h>
#include <grpcpp/grpcpp.h>

#include <string>

#include "client/commands.h"

namespace bora {

// A context that CancelCurrentCall knows, with the deadline of --timeout. A
// command has one at a time.
class CallScope {
 public:
  explicit CallScope(const GlobalOptions& global);
  ~CallScope();
  CallScope(const CallScope&) = delete;
  CallScope& operator=(const CallScope&) = delete;
  grpc::ClientContext* get() { return &context_; }

 private:
  grpc::ClientContext context_;
};

// Whether CancelCurrentCall was called. Thread-safe.
bool WasCancelled();

// Why nobody answered at --server, as far as the system can say: the name does
// not resolve, or who should be listening. One line.
std::string WhyUnreachable(const std::string& server);

// Prints the failure, to stderr or as JSON to stdout, and returns the exit
// code.
int Report(const GlobalOptions& global, const grpc::Status& status);

// One line of JSON on stdout. `print_zeros`: also fields that have their
// default.
void PrintJson(const google::protobuf::Message& message, bool print_zeros = false);

}  // namespace bora

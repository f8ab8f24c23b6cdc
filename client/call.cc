#include "client/call.h"

#include <google/protobuf/util/json_util.h>
#include <netdb.h>

#include <chrono>
#include <iostream>

#include "absl/base/thread_annotations.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"

namespace bora {
namespace {

// The call that CancelCurrentCall() ends. Shared by the command's thread and the signal thread.
struct CurrentCall {
  absl::Mutex mutex;
  // The call in progress; null if there is none. The CallScope owns it.
  grpc::ClientContext* context ABSL_GUARDED_BY(mutex) = nullptr;
  bool cancelled ABSL_GUARDED_BY(mutex) = false;  // CancelCurrentCall() was called; never reset
};

// Never deleted, since the signal thread runs until the process ends.
CurrentCall& Current() {
  static CurrentCall* current = new CurrentCall;
  return *current;
}

}  // namespace

// gRPC takes deadlines on the system clock; UseSteadyWaits() in main makes the wait itself follow
// the steady clock.
CallScope::CallScope(const GlobalOptions& global) {
  if (global.timeout != absl::InfiniteDuration()) {
    context_.set_deadline(std::chrono::system_clock::now() +
                          absl::ToChronoMicroseconds(global.timeout));
  }
  absl::MutexLock lock(&Current().mutex);
  Current().context = &context_;
  // A signal between two calls of a command must also stop the second call.
  if (Current().cancelled) context_.TryCancel();
}

CallScope::~CallScope() {
  absl::MutexLock lock(&Current().mutex);
  Current().context = nullptr;
}

void CancelCurrentCall() {
  absl::MutexLock lock(&Current().mutex);
  Current().cancelled = true;
  if (Current().context != nullptr) Current().context->TryCancel();
}

bool WasCancelled() {
  absl::MutexLock lock(&Current().mutex);
  return Current().cancelled;
}

// Only the host of HOST:PORT is looked up: unix:PATH and [IPv6] have no name to resolve, and gRPC
// resolves scheme:///name itself.
std::string WhyUnreachable(const std::string& server) {
  const size_t colon = server.rfind(':');
  if (colon != std::string::npos && !absl::StartsWith(server, "unix") &&
      server.find('/') == std::string::npos && server.front() != '[') {
    const std::string host = server.substr(0, colon);
    addrinfo hints = {};
    hints.ai_socktype = SOCK_STREAM;
    addrinfo* found = nullptr;
    const int code = getaddrinfo(host.c_str(), nullptr, &hints, &found);
    if (code != 0) {
      return absl::StrCat("the name ", host, " does not resolve (", gai_strerror(code),
                          "); --server or BORA_SERVER chooses another");
    }
    freeaddrinfo(found);
  }
  return absl::StrCat("is a server listening on ", server,
                      "? (--server or BORA_SERVER chooses another)");
}

int Report(const GlobalOptions& global, const grpc::Status& status) {
  if (WasCancelled() && status.error_code() == grpc::StatusCode::CANCELLED) return kExitInterrupted;
  // With --json the error goes to stdout, where a program reads the other objects.
  const CallError error = DescribeError(status);
  const bool is_unavailable = status.error_code() == grpc::StatusCode::UNAVAILABLE;
  if (global.json) {
    std::cout << ToJson(error) << std::endl;
  } else {
    std::cerr << "bora: " << ToText(error) << std::endl;
    // A server that is up gives a reason, such as QUEUE_FULL. Without a reason gRPC made the error.
    if (is_unavailable && error.reason.empty()) {
      std::cerr << "  " << WhyUnreachable(global.server) << std::endl;
    }
  }
  return is_unavailable ? kExitUnavailable : kExitFailed;
}

void PrintJson(const google::protobuf::Message& message, bool print_zeros) {
  google::protobuf::util::JsonPrintOptions options;
  // Names as in the .proto files and docs/api.md, not in lowerCamelCase.
  options.preserve_proto_field_names = true;
  options.always_print_primitive_fields = print_zeros;
  std::string text;
  const auto status = google::protobuf::util::MessageToJsonString(message, &text, options);
  std::cout << (status.ok() ? text : "{}") << std::endl;
}

}  // namespace bora

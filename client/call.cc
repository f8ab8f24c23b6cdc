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
  // Null while there is no call.
  grpc::ClientContext* context ABSL_GUARDED_BY(mutex) = nullptr;
  bool cancelled ABSL_GUARDED_BY(mutex) = false;
};

// Never deleted, since the signal thread runs until the process ends.
CurrentCall& Current() {
  static CurrentCall* current = new CurrentCall;
  return *current;
}

}  // namespace

CallScope::CallScope(const GlobalOptions& global) {
  if (global.timeout != absl::InfiniteDuration()) {
    context_.set_deadline(std::chrono::system_clock::now() +
                          absl::ToChronoMicroseconds(global.timeout));
  }
  absl::MutexLock lock(&Current().mutex);
  Current().context = &context_;
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

// Only for HOST:PORT with a plain host: not for unix:PATH, gRPC's scheme:///name or [IPv6].
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
  const CallError error = DescribeError(status);
  const bool is_unavailable = status.error_code() == grpc::StatusCode::UNAVAILABLE;
  if (global.json) {
    std::cout << ToJson(error) << std::endl;
  } else {
    std::cerr << "bora: " << ToText(error) << std::endl;
    if (is_unavailable && error.reason.empty()) {
      std::cerr << "  " << WhyUnreachable(global.server) << std::endl;
    }
  }
  return is_unavailable ? kExitUnavailable : kExitFailed;
}

void PrintJson(const google::protobuf::Message& message, bool print_zeros) {
  google::protobuf::util::JsonPrintOptions options;
  options.preserve_proto_field_names = true;
  options.always_print_primitive_fields = print_zeros;
  std::string text;
  const auto status = google::protobuf::util::MessageToJsonString(message, &text, options);
  std::cout << (status.ok() ? text : "{}") << std::endl;
}

}  // namespace bora

// Checks addresses given in flags, before gRPC misreads a wrong port as another one.
#pragma once

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

namespace bora {

// OK if `address` is HOST:PORT with a port in [min_port, 65535], or unix:PATH, or
// unix-abstract:NAME; else INVALID_ARGUMENT. min_port is 0 for addresses to listen on (0 = any free
// port), 1 for addresses to connect to. Needed since gRPC reads port 70000 as 4464 (70000 mod
// 65536) and a missing port as 443.
inline absl::Status CheckHostPort(absl::string_view address, int min_port) {
  if (absl::StartsWith(address, "unix:") || absl::StartsWith(address, "unix-abstract:")) {
    return absl::OkStatus();
  }
  const size_t colon = address.rfind(':');
  const absl::string_view digits =
      colon == absl::string_view::npos ? "" : address.substr(colon + 1);
  int port = 0;
  const bool is_number = !digits.empty() && digits.size() <= 5 &&
                         digits.find_first_not_of("0123456789") == absl::string_view::npos &&
                         absl::SimpleAtoi(digits, &port);
  if (is_number && colon > 0 && port >= min_port && port <= 65535) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("\"", address, "\" is not HOST:PORT with a port in [", min_port, ", 65535]"));
}

}  // namespace bora

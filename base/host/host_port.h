// Addresses of the form HOST:PORT: their parts, and a check of those in flags before a library
// takes a wrong port for another one.
#pragma once

#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

namespace bora {

struct HostPort {
  std::string host;  // without the brackets of [IPv6]
  std::string port;  // what follows the last colon: no number unless the address has been checked
};

// The parts of HOST:PORT or [IPv6]:PORT; nullopt if there is no colon.
inline std::optional<HostPort> SplitHostPort(absl::string_view address) {
  const size_t colon = address.rfind(':');
  if (colon == absl::string_view::npos) return std::nullopt;
  absl::string_view host = address.substr(0, colon);
  if (host.size() > 2 && host.front() == '[' && host.back() == ']') {
    host = host.substr(1, host.size() - 2);
  }
  return HostPort{std::string(host), std::string(address.substr(colon + 1))};
}

// OK if `address` is HOST:PORT with a port in [min_port, 65535], or unix:PATH, or
// unix-abstract:NAME; else INVALID_ARGUMENT. min_port is 0 for addresses to listen on (0 = any free
// port), 1 for addresses to connect to. Needed since gRPC reads port 70000 as 4464 (70000 mod
// 65536) and a missing port as 443.
inline absl::Status CheckHostPort(absl::string_view address, int min_port) {
  if (absl::StartsWith(address, "unix:") || absl::StartsWith(address, "unix-abstract:")) {
    return absl::OkStatus();
  }
  const HostPort parts = SplitHostPort(address).value_or(HostPort{});
  int port = 0;
  const bool is_number = !parts.port.empty() && parts.port.size() <= 5 &&
                         parts.port.find_first_not_of("0123456789") == std::string::npos &&
                         absl::SimpleAtoi(parts.port, &port);
  if (is_number && !parts.host.empty() && port >= min_port && port <= 65535) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(
      absl::StrCat("\"", address, "\" is not HOST:PORT with a port in [", min_port, ", 65535]"));
}

}  // namespace bora

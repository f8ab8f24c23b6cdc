// Finds out why a server cannot listen on an address. gRPC reports only that it cannot.
#pragma once

#include <string>

#include "absl/status/status.h"

namespace bora {

// Tries to bind each socket address that `address` (HOST:PORT, [IPv6]:PORT or unix:PATH) resolves
// to, and releases it at once. OK if one can be bound, since gRPC then listens on that one.
// Otherwise UNAVAILABLE with the system's reason: the port is in use, permission is missing, no
// interface has the address, or the name does not resolve. May block on a name server. REQUIRES:
// `address` has passed CheckHostPort.
absl::Status CheckCanListen(const std::string& address);

// The reason, to be called after gRPC failed to listen on `address`; never OK: if binding works
// now, the message says that gRPC has another reason.
absl::Status WhyNotListening(const std::string& address);

}  // namespace bora

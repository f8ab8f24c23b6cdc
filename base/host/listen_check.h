// Why an address cannot be listened on. gRPC says only that it cannot.
#pragma once

#include <string>

#include "absl/status/status.h"

namespace bora {

// Binds each address that HOST:PORT, [IPv6]:PORT or unix:PATH stands for, as gRPC would, and lets
// go of it at once. OK if one can be had, as gRPC then listens on that. UNAVAILABLE otherwise, with
// the system's reason: the port is in use, the permission is missing, no interface has the address,
// the name does not resolve. May wait for a name server. `address` has passed CheckHostPort.
absl::Status CheckCanListen(const std::string& address);

// The same where gRPC has just failed: never OK.
absl::Status WhyNotListening(const std::string& address);

}  // namespace bora

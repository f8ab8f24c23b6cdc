// Where one rank of a group listens for the others.
#pragma once

#include <string>

namespace bora {

// Plain data: a worker publishes it to the coordinator, which hands it to the other workers.
struct Endpoint {
  std::string host_id;      // equal for two workers only if they can share memory: LocalHostId()
  std::string tcp_address;  // "10.0.0.5:40123" or "[fd00::5]:40123"
  std::string unix_name;    // abstract Unix socket, without the leading NUL; empty: none

  bool operator==(const Endpoint&) const = default;
};

}  // namespace bora

#include "worker/cuda/nccl_environment.h"

#include <arpa/inet.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/log.h"

namespace bora {
namespace {

constexpr char kInterfaceVariable[] = "NCCL_SOCKET_IFNAME";

// Whether `address` is of `family` and its bytes in network order are bytes[0..n_bytes).
bool IsAddress(const sockaddr* address, int family, const void* bytes, size_t n_bytes) {
  if (address == nullptr || address->sa_family != family) return false;
  const void* own =
      family == AF_INET
          ? static_cast<const void*>(&reinterpret_cast<const sockaddr_in*>(address)->sin_addr)
          : &reinterpret_cast<const sockaddr_in6*>(address)->sin6_addr;
  return std::memcmp(own, bytes, n_bytes) == 0;
}

}  // namespace

absl::StatusOr<std::string> InterfaceOf(absl::string_view address) {
  const std::string text(address);
  in_addr v4;
  in6_addr v6;
  const bool is_v4 = inet_pton(AF_INET, text.c_str(), &v4) == 1;
  if (!is_v4 && inet_pton(AF_INET6, text.c_str(), &v6) != 1) {
    return absl::InvalidArgumentError(absl::StrCat("'", address, "' is no numeric address"));
  }
  ifaddrs* list = nullptr;
  if (getifaddrs(&list) != 0) return absl::ErrnoToStatus(errno, "getifaddrs");
  const std::unique_ptr<ifaddrs, void (*)(ifaddrs*)> owner(list, freeifaddrs);
  for (const ifaddrs* interface = list; interface != nullptr; interface = interface->ifa_next) {
    if (is_v4 ? IsAddress(interface->ifa_addr, AF_INET, &v4, sizeof(v4))
              : IsAddress(interface->ifa_addr, AF_INET6, &v6, sizeof(v6))) {
      return std::string(interface->ifa_name);
    }
  }
  return absl::NotFoundError(absl::StrCat("no interface has the address ", address));
}

void PrepareNcclEnvironment(absl::string_view bind_address) {
  // NCCL connects all algorithms at once instead of at the first use of each.
  setenv("NCCL_RUNTIME_CONNECT", "0", /*overwrite=*/0);
  if (getenv(kInterfaceVariable) != nullptr) return;
  const absl::StatusOr<std::string> interface = InterfaceOf(bind_address);
  if (!interface.ok()) {
    LogWarning("NCCL chooses a network by itself", {{"reason", interface.status().message()}});
    return;
  }
  // "=" makes NCCL take exactly this name, not every name that begins with it.
  setenv(kInterfaceVariable, absl::StrCat("=", *interface).c_str(), /*overwrite=*/0);
}

void LogNcclSettings(const NcclLibrary& library) {
  std::vector<absl::string_view> settings;
  for (char** variable = environ; *variable != nullptr; ++variable) {
    if (absl::StartsWith(*variable, "NCCL_")) settings.push_back(*variable);
  }
  std::sort(settings.begin(), settings.end());
  LogInfo("NCCL",
          {{"version", library.version_text()}, {"settings", absl::StrJoin(settings, " ")}});
}

}  // namespace bora

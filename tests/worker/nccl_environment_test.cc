#include "worker/cuda/nccl_environment.h"

#include <gtest/gtest.h>
#include <stdlib.h>

#include <string>

namespace bora {
namespace {

TEST(NcclEnvironmentTest, AnAddressHasAnInterface) {
  EXPECT_EQ(InterfaceOf("127.0.0.1").value_or("none"), "lo");
  EXPECT_EQ(InterfaceOf("192.0.2.1").status(),
            absl::NotFoundError("no interface has the address 192.0.2.1"));
  EXPECT_EQ(InterfaceOf("localhost").status(),
            absl::InvalidArgumentError("'localhost' is no numeric address"));
}

TEST(NcclEnvironmentTest, TheOperatorsSettingsStay) {
  unsetenv("NCCL_SOCKET_IFNAME");
  unsetenv("NCCL_RUNTIME_CONNECT");
  PrepareNcclEnvironment("127.0.0.1");
  EXPECT_EQ(std::string(getenv("NCCL_SOCKET_IFNAME")), "=lo");
  EXPECT_EQ(std::string(getenv("NCCL_RUNTIME_CONNECT")), "0");
  setenv("NCCL_SOCKET_IFNAME", "eth9", 1);
  setenv("NCCL_RUNTIME_CONNECT", "1", 1);
  PrepareNcclEnvironment("127.0.0.1");
  EXPECT_EQ(std::string(getenv("NCCL_SOCKET_IFNAME")), "eth9");
  EXPECT_EQ(std::string(getenv("NCCL_RUNTIME_CONNECT")), "1");
  // An address that no interface has leaves the choice to NCCL.
  unsetenv("NCCL_SOCKET_IFNAME");
  PrepareNcclEnvironment("192.0.2.1");
  EXPECT_EQ(getenv("NCCL_SOCKET_IFNAME"), nullptr);
}

}  // namespace
}  // namespace bora

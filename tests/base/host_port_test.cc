#include "base/host/host_port.h"

#include <gtest/gtest.h>

#include <string>

namespace bora {
namespace {

TEST(HostPortTest, AcceptsHostsWithPortsAndUnixSockets) {
  for (const char* address : {"127.0.0.1:0", "localhost:50051", "[::1]:65535", "a.b:1",
                              "unix:/tmp/x", "unix-abstract:x", "dns:///host:50052"}) {
    EXPECT_TRUE(CheckHostPort(address, 0).ok()) << address;
  }
}

TEST(HostPortTest, NamesAddressAndRangeOtherwise) {
  for (const char* address : {"", ":", ":5", "host", "host:", "host:x", "host:70000", "host:65536",
                              "host:-1", "host:+5", "host: 5", "host:5 ", "host:99999999999"}) {
    const absl::Status status = CheckHostPort(address, 0);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << address;
    EXPECT_NE(std::string(status.message()).find(address), std::string::npos);
    EXPECT_NE(std::string(status.message()).find("[0, 65535]"), std::string::npos);
  }
  EXPECT_FALSE(CheckHostPort("host:0", 1).ok());
}

TEST(HostPortTest, SplitsAtTheLastColon) {
  const auto name = SplitHostPort("host:50051");
  ASSERT_TRUE(name.has_value());
  EXPECT_EQ(name->host, "host");
  EXPECT_EQ(name->port, "50051");
  const auto ipv6 = SplitHostPort("[fd00::5]:80");
  ASSERT_TRUE(ipv6.has_value());
  EXPECT_EQ(ipv6->host, "fd00::5");
  EXPECT_EQ(ipv6->port, "80");
  EXPECT_EQ(SplitHostPort(":")->host, "");
  EXPECT_FALSE(SplitHostPort("host").has_value());
}

}  // namespace
}  // namespace bora

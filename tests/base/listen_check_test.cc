#include "base/host/listen_check.h"

#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <string>

#include "absl/strings/str_cat.h"
#include "base/host/unique_fd.h"

namespace bora {
namespace {

using ::testing::HasSubstr;

std::string Why(const std::string& address) {
  return std::string(CheckCanListen(address).message());
}

TEST(ListenCheckTest, FreeAddressesAreFine) {
  for (const char* address : {"127.0.0.1:0", "localhost:0", "unix:/tmp/bora-test", "unix:relative",
                              "unix-abstract:bora"}) {
    EXPECT_TRUE(CheckCanListen(address).ok()) << Why(address);
  }
  EXPECT_FALSE(WhyNotListening("127.0.0.1:0").ok());
}

TEST(ListenCheckTest, SaysWhyAnAddressCannotBeHad) {
  const UniqueFd taken(socket(AF_INET, SOCK_STREAM, 0));
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t n_bytes = sizeof(address);
  ASSERT_EQ(bind(taken.get(), reinterpret_cast<sockaddr*>(&address), n_bytes), 0);
  ASSERT_EQ(listen(taken.get(), 1), 0);
  ASSERT_EQ(getsockname(taken.get(), reinterpret_cast<sockaddr*>(&address), &n_bytes), 0);
  const int port = ntohs(address.sin_port);
  EXPECT_EQ(Why(absl::StrCat("127.0.0.1:", port)),
            absl::StrCat("cannot listen on 127.0.0.1:", port, ": port ", port,
                         " is in use by another process"));
  EXPECT_THAT(Why("192.0.2.1:0"), HasSubstr("no interface of this host has that address"));
  EXPECT_THAT(Why("nohost.invalid:0"), HasSubstr("the name nohost.invalid does not resolve"));
  EXPECT_THAT(Why("unix:/nowhere/socket"), HasSubstr("/nowhere/: No such file or directory"));
  EXPECT_THAT(Why("unix:/dev/null"), HasSubstr("no socket"));
  EXPECT_THAT(Why(absl::StrCat("unix:/tmp/", std::string(200, 'x'))), HasSubstr("at most 107"));
}

}  // namespace
}  // namespace bora

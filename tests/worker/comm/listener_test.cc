// Forming meshes: late peers, strangers, many epochs.
#include "worker/comm/listener.h"

#include <dirent.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstring>
#include <fstream>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/time/clock.h"
#include "base/clock.h"
#include "tests/worker/comm/comm_test_util.h"
#include "worker/comm/handshake.h"
#include "worker/comm/link/link.h"
#include "worker/comm/link/socket_util.h"
#include "worker/comm/mesh.h"

namespace bora {
namespace {

int CountEntries(const char* folder) {
  DIR* dir = opendir(folder);
  if (dir == nullptr) return 0;
  int n = 0;
  while (readdir(dir) != nullptr) ++n;
  closedir(dir);
  return n;
}

// Memory mappings of this process whose line in /proc/self/maps contains `text`.
int CountMappings(const char* text) {
  std::ifstream maps("/proc/self/maps");
  std::string line;
  int n = 0;
  while (std::getline(maps, line)) n += line.find(text) != std::string::npos ? 1 : 0;
  return n;
}

UniqueFd MustConnect(const SocketAddress& address) {
  const absl::StatusOr<UniqueFd> never = NewEventFd();
  while (true) {
    absl::StatusOr<UniqueFd> fd = ConnectTo(address, SteadyNow() + absl::Seconds(5), never->get());
    // A full backlog empties as fast as the acceptor runs.
    if (absl::IsResourceExhausted(fd.status())) continue;
    EXPECT_TRUE(fd.ok()) << fd.status();
    return *std::move(fd);
  }
}

// Waits for the end of the stream and returns how many bytes came before it.
size_t BytesUntilClosed(int fd) {
  const absl::StatusOr<UniqueFd> never = NewEventFd();
  size_t n = 0;
  uint8_t byte;
  while (
      RecvAll(fd, absl::MakeSpan(&byte, 1), nullptr, SteadyNow() + absl::Seconds(10), never->get())
          .ok()) {
    ++n;
  }
  return n;
}

// Rank 0 waits for rank 1, whose place strangers try to take before it comes.
class StrangersTest : public testing::TestWithParam<bool> {
 protected:
  StrangersTest() : listeners_(NewListeners(2)), endpoints_(EndpointsOf(listeners_)) {
    waiting_ = std::thread([this] {
      absl::StatusOr<std::unique_ptr<Mesh>> mesh =
          listeners_[0]->Connect(FullMeshOptions(endpoints_, 0, wiring()));
      EXPECT_TRUE(mesh.ok()) << mesh.status();
      if (mesh.ok()) mesh0_ = *std::move(mesh);
    });
    AwaitRendezvous();
  }
  ~StrangersTest() override {
    if (waiting_.joinable()) ConnectRightPeer();
  }

  static bool use_unix() { return GetParam(); }
  static Wiring wiring() { return use_unix() ? Wiring::kSharedMemory : Wiring::kTcp; }

  SocketAddress address() const {
    return use_unix() ? *AbstractUnixAddress(endpoints_[0].unix_name)
                      : *ParseTcpAddress(endpoints_[0].tcp_address);
  }

  HelloMessage GoodHello() const {
    HelloMessage hello;
    hello.link_kind = static_cast<uint32_t>(use_unix() ? LinkKind::kSharedMemory : LinkKind::kTcp);
    hello.epoch = 7;
    hello.from_rank = 1;
    hello.to_rank = 0;
    hello.ring_bytes = int64_t{1} << 20;
    hello.nonce = RandomNonce();
    return hello;
  }

  // Sends a Hello and reads the challenge; false when the connection was closed instead.
  bool Greet(int fd, const HelloMessage& hello, ChallengeMessage* challenge) const {
    const absl::StatusOr<UniqueFd> never = NewEventFd();
    return SendSmall(fd, AsBytes(hello)).ok() &&
           RecvAll(fd, AsMutableBytes(*challenge), nullptr, SteadyNow() + absl::Seconds(10),
                   never->get())
               .ok();
  }

  // Until rank 0's Connect has been registered, every Hello is refused.
  void AwaitRendezvous() {
    ChallengeMessage challenge;
    while (!Greet(MustConnect(address()).get(), GoodHello(), &challenge)) {
    }
    n_refused_before_ = listeners_[0]->n_refused();
  }

  void ConnectRightPeer() {
    absl::StatusOr<std::unique_ptr<Mesh>> mesh1 =
        listeners_[1]->Connect(FullMeshOptions(endpoints_, 1, wiring()));
    waiting_.join();
    ASSERT_TRUE(mesh1.ok()) << mesh1.status();
    std::thread rank0([this] { EXPECT_TRUE(mesh0_->Barrier({0, 1}).ok()); });
    EXPECT_TRUE((*mesh1)->Barrier({0, 1}).ok());
    rank0.join();
  }

  std::vector<std::unique_ptr<Listener>> listeners_;
  std::vector<Endpoint> endpoints_;
  std::thread waiting_;
  std::unique_ptr<Mesh> mesh0_;
  int64_t n_refused_before_ = 0;
};

TEST_P(StrangersTest, AWrongSecretIsRefused) {
  const UniqueFd fd = MustConnect(address());
  ChallengeMessage challenge;
  const HelloMessage hello = GoodHello();
  ASSERT_TRUE(Greet(fd.get(), hello, &challenge));
  EXPECT_TRUE(SameMac(challenge.proof, HandshakeProof(kTestSecret, HandshakeRole::kAcceptor, hello,
                                                      challenge.nonce)));
  const ProofMessage proof = {HandshakeProof("another-secret-of-24-byte", HandshakeRole::kConnector,
                                             hello, challenge.nonce)};
  ASSERT_TRUE(SendSmall(fd.get(), AsBytes(proof)).ok());
  EXPECT_EQ(BytesUntilClosed(fd.get()), 0u);
}

TEST_P(StrangersTest, TheAcceptorsOwnProofReflectedIsRefused) {
  const UniqueFd fd = MustConnect(address());
  ChallengeMessage challenge;
  ASSERT_TRUE(Greet(fd.get(), GoodHello(), &challenge));
  ASSERT_TRUE(SendSmall(fd.get(), AsBytes(ProofMessage{challenge.proof})).ok());
  EXPECT_EQ(BytesUntilClosed(fd.get()), 0u);
}

// A proof that was right once, recorded together with its Hello, is useless on a new connection.
TEST_P(StrangersTest, AReplayIsRefused) {
  const HelloMessage hello = GoodHello();
  const UniqueFd recorded = MustConnect(address());
  ChallengeMessage challenge;
  ASSERT_TRUE(Greet(recorded.get(), hello, &challenge));
  const ProofMessage proof = {
      HandshakeProof(kTestSecret, HandshakeRole::kConnector, hello, challenge.nonce)};
  const UniqueFd fd = MustConnect(address());
  ChallengeMessage other_challenge;
  ASSERT_TRUE(Greet(fd.get(), hello, &other_challenge));
  ASSERT_TRUE(SendSmall(fd.get(), AsBytes(proof)).ok());
  EXPECT_EQ(BytesUntilClosed(fd.get()), 0u);
}

TEST_P(StrangersTest, AHelloThatDoesNotFitGetsNoChallenge) {
  std::vector<HelloMessage> hellos(8, GoodHello());
  hellos[0].epoch = 6;
  hellos[1].epoch = 8;
  hellos[2].from_rank = 5;
  hellos[3].to_rank = 1;
  hellos[4].version = 99;
  hellos[5].ring_bytes = -1;
  hellos[6].link_kind = 12345;
  hellos[7].magic[0] = 'X';
  for (size_t i = 0; i < hellos.size(); ++i) {
    ChallengeMessage challenge;
    EXPECT_FALSE(Greet(MustConnect(address()).get(), hellos[i], &challenge)) << i;
  }
  EXPECT_GE(listeners_[0]->n_refused(), n_refused_before_ + 8);
}

TEST_P(StrangersTest, GarbageIsRefused) {
  for (int i = 0; i < 100; ++i) {
    const UniqueFd fd = MustConnect(address());
    for (int j = 0; j < 8; ++j) {
      const Nonce garbage = RandomNonce();
      if (!SendSmall(fd.get(), garbage).ok()) break;
    }
    EXPECT_EQ(BytesUntilClosed(fd.get()), 0u);
  }
}

// Descriptors sent by a stranger must not stay open in the listener's process.
TEST_P(StrangersTest, DescriptorsOfStrangersAreNotKept) {
  if (!use_unix()) return;
  const absl::StatusOr<UniqueFd> sent = NewEventFd();
  const int n_before = CountEntries("/proc/self/fd");
  for (int i = 0; i < 50; ++i) {
    const UniqueFd fd = MustConnect(address());
    const int fds[2] = {sent->get(), sent->get()};
    ASSERT_TRUE(SendSmall(fd.get(), AsBytes(RandomNonce()), fds).ok());
    for (int j = 0; j < 3; ++j) {
      if (!SendSmall(fd.get(), AsBytes(RandomNonce()), fds).ok()) break;
    }
    BytesUntilClosed(fd.get());
  }
  EXPECT_LE(CountEntries("/proc/self/fd"), n_before);
}

// A peer that knows epoch and rank gets a challenge before it has proved anything. Its proof may
// come byte by byte, each with descriptors: more of them than a proof has end the connection.
TEST_P(StrangersTest, DescriptorsBeforeTheProofAreBounded) {
  if (!use_unix()) return;
  const absl::StatusOr<UniqueFd> sent = NewEventFd();
  const UniqueFd fd = MustConnect(address());
  ChallengeMessage challenge;
  ASSERT_TRUE(Greet(fd.get(), GoodHello(), &challenge));
  const int fds[2] = {sent->get(), sent->get()};
  const uint8_t byte = 0;
  int n_sent = 0;
  // A proof has 32 bytes: without the bound all of them would be read.
  while (n_sent < 31 && SendSmall(fd.get(), absl::MakeConstSpan(&byte, 1), fds).ok()) {
    ++n_sent;
    absl::SleepFor(absl::Milliseconds(1));
  }
  EXPECT_LT(n_sent, 31);
  EXPECT_EQ(BytesUntilClosed(fd.get()), 0u);
}

// 200 connections that say nothing or too little: the right peer gets in all the same, before they
// are closed after the handshake timeout of 2 s.
TEST_P(StrangersTest, SilentConnectionsDoNotHoldUpTheRightPeer) {
  std::vector<UniqueFd> silent;
  for (int i = 0; i < 200; ++i) {
    silent.push_back(MustConnect(address()));
    if (i % 2 == 0) {
      [[maybe_unused]] const absl::Status sent =
          SendSmall(silent.back().get(), AsBytes(kHandshakeMagic));
    }
  }
  ConnectRightPeer();
  uint8_t byte;
  EXPECT_TRUE(RecvSome(silent.back().get(), absl::MakeSpan(&byte, 1), nullptr).ok())
      << "the right peer had to wait for the handshake timeout of the silent ones";
  const SteadyTime start = SteadyNow();
  for (const UniqueFd& fd : silent) EXPECT_EQ(BytesUntilClosed(fd.get()), 0u);
  EXPECT_LT(SteadyNow() - start, absl::Seconds(5));
}

INSTANTIATE_TEST_SUITE_P(, StrangersTest, testing::Bool(),
                         [](const testing::TestParamInfo<bool>& info) {
                           return info.param ? "Unix" : "Tcp";
                         });

TEST(ListenerTest, ALatePeerIsWaitedFor) {
  const auto listeners = NewListeners(3);
  const std::vector<Endpoint> endpoints = EndpointsOf(listeners);
  std::vector<std::thread> threads;
  // The dialing ranks come first and must retry; rank 0, which they dial, is late.
  for (const int rank : {2, 1, 0}) {
    if (rank == 0) absl::SleepFor(absl::Milliseconds(100));
    threads.emplace_back([&, rank] {
      const auto mesh = listeners[static_cast<size_t>(rank)]->Connect(
          FullMeshOptions(endpoints, rank, Wiring::kMixed));
      ASSERT_TRUE(mesh.ok()) << mesh.status();
      EXPECT_TRUE((*mesh)->Barrier(AllRanks(3)).ok());
    });
  }
  for (std::thread& thread : threads) thread.join();
}

TEST(ListenerTest, DeadlineNamesEveryMissingRank) {
  auto listeners = NewListeners(3);
  const std::vector<Endpoint> endpoints = EndpointsOf(listeners);
  listeners[0].reset();  // its port refuses connections now
  MeshOptions options = FullMeshOptions(endpoints, 1, Wiring::kTcp);
  options.deadline = SteadyNow() + absl::Milliseconds(200);
  const absl::Status status = listeners[1]->Connect(options).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kDeadlineExceeded);
  const std::string text(status.message());
  EXPECT_NE(text.find("rank 0 (" + endpoints[0].tcp_address + "): connect: Connection refused"),
            std::string::npos)
      << text;
  EXPECT_NE(text.find("rank 2 (" + endpoints[2].tcp_address + "): it has not connected"),
            std::string::npos)
      << text;
}

TEST(ListenerTest, DifferentSecretsDoNotConnectAndSaySo) {
  const auto listeners = NewListeners(2);
  const std::vector<Endpoint> endpoints = EndpointsOf(listeners);
  MeshOptions options0 = FullMeshOptions(endpoints, 0, Wiring::kTcp);
  MeshOptions options1 = FullMeshOptions(endpoints, 1, Wiring::kTcp);
  options1.secret = "a-different-secret-0123";
  options0.deadline = options1.deadline = SteadyNow() + absl::Milliseconds(300);
  std::thread rank0([&] {
    EXPECT_EQ(listeners[0]->Connect(options0).status().code(), absl::StatusCode::kDeadlineExceeded);
  });
  const absl::Status status = listeners[1]->Connect(options1).status();
  rank0.join();
  EXPECT_EQ(status.code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_NE(status.message().find("wrong proof of the secret of epoch 7"), absl::string_view::npos)
      << status;
}

TEST(ListenerTest, AbortEpochsBeforeEndsAPendingConnect) {
  const auto listeners = NewListeners(2);
  MeshOptions options = FullMeshOptions(EndpointsOf(listeners), 0, Wiring::kTcp);
  options.deadline = SteadyTime::InfiniteFuture();
  absl::Status status;
  std::thread rank0([&] { status = listeners[0]->Connect(options).status(); });
  absl::SleepFor(absl::Milliseconds(20));
  listeners[0]->AbortEpochsBefore(options.epoch + 1, absl::CancelledError("epoch 8 begins"));
  rank0.join();
  EXPECT_EQ(status.code(), absl::StatusCode::kAborted);
}

TEST(ListenerTest, UnreachableUnixSocketFallsBackToTcp) {
  const auto listeners = NewListeners(2);
  std::vector<Endpoint> endpoints = EndpointsOf(listeners);
  endpoints[0].unix_name += "-of-another-machine";
  std::thread rank0([&] {
    EXPECT_TRUE(listeners[0]->Connect(FullMeshOptions(endpoints, 0, Wiring::kSharedMemory)).ok());
  });
  const auto mesh = listeners[1]->Connect(FullMeshOptions(endpoints, 1, Wiring::kSharedMemory));
  rank0.join();
  ASSERT_TRUE(mesh.ok()) << mesh.status();
  EXPECT_EQ((*mesh)->link_kind(0), LinkKind::kTcp);
}

TEST(ListenerTest, AHundredEpochsLeaveNothingBehind) {
  const auto listeners = NewListeners(3);
  const std::vector<Endpoint> endpoints = EndpointsOf(listeners);
  const auto run_epoch = [&](int64_t epoch) {
    std::vector<std::thread> threads;
    for (int rank = 0; rank < 3; ++rank) {
      threads.emplace_back([&, rank] {
        MeshOptions options = FullMeshOptions(endpoints, rank, Wiring::kMixed);
        options.epoch = epoch;
        const auto mesh = listeners[static_cast<size_t>(rank)]->Connect(options);
        ASSERT_TRUE(mesh.ok()) << mesh.status();
        float value = 1.0f;
        ASSERT_TRUE((*mesh)->AllReduceSum(AllRanks(3), absl::MakeSpan(&value, 1)).ok());
        EXPECT_EQ(value, 3.0f);
        EXPECT_EQ(CountMappings("/dev/shm"), 0) << "shared memory must have no name";
      });
    }
    for (std::thread& thread : threads) thread.join();
  };
  run_epoch(0);
  const int n_fds = CountEntries("/proc/self/fd");
  const int n_threads = CountEntries("/proc/self/task");
  for (int64_t epoch = 1; epoch <= 100; ++epoch) run_epoch(epoch);
  EXPECT_EQ(CountEntries("/proc/self/fd"), n_fds);
  EXPECT_EQ(CountMappings("memfd:bora-link"), 0);
  // The kernel removes a thread that has been joined from the list a moment later.
  const SteadyTime deadline = SteadyNow() + absl::Seconds(5);
  while (CountEntries("/proc/self/task") > n_threads && SteadyNow() < deadline) {
    std::this_thread::yield();
  }
  EXPECT_LE(CountEntries("/proc/self/task"), n_threads);
}

TEST(ListenerTest, BadOptionsAreNamed) {
  const auto listeners = NewListeners(2);
  const MeshOptions good = FullMeshOptions(EndpointsOf(listeners), 0, Wiring::kTcp);
  const auto message_for = [&](const std::function<void(MeshOptions*)>& change) {
    MeshOptions options = good;
    change(&options);
    const absl::Status status = listeners[0]->Connect(options).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    return std::string(status.message());
  };
  EXPECT_EQ(message_for([](MeshOptions* o) { o->secret = "short"; }),
            "mesh options: secret has 5 bytes, needs 16");
  EXPECT_EQ(message_for([](MeshOptions* o) { o->max_all_reduce_floats = -1; }),
            "mesh options: max_all_reduce_floats is -1, must be >= 0");
  EXPECT_EQ(message_for([](MeshOptions* o) { o->ring_bytes = 5000; }),
            "mesh options: ring_bytes is 5000, must be a power of two from 4096 to 1073741824");
  EXPECT_EQ(message_for([](MeshOptions* o) { o->my_rank = 9; }),
            "mesh options: my_rank 9 is not among the ranks");
  EXPECT_EQ(message_for([](MeshOptions* o) {
              o->peers = {1, 1};
            }),
            "mesh options: peer 1 is named twice");
  EXPECT_EQ(message_for([](MeshOptions* o) { o->peers = {0}; }),
            "mesh options: rank 0 names itself as a peer");
  ListenerOptions wildcard;
  wildcard.bind_address = "0.0.0.0";
  EXPECT_EQ(Listener::Create(wildcard).status().code(), absl::StatusCode::kInvalidArgument);
  wildcard.advertise_address = "127.0.0.1";
  EXPECT_TRUE(Listener::Create(wildcard).ok());
  ListenerOptions no_address;
  no_address.bind_address = "not an address";
  EXPECT_EQ(Listener::Create(no_address).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(ListenerTest, WorksOverIpv6) {
  ListenerOptions options;
  options.bind_address = "::1";
  absl::StatusOr<std::unique_ptr<Listener>> first = Listener::Create(options);
  if (!first.ok()) GTEST_SKIP() << "no IPv6 loopback: " << first.status();
  const auto second = Listener::Create(options);
  ASSERT_TRUE(second.ok());
  const std::vector<Endpoint> endpoints = {(*first)->endpoint(), (*second)->endpoint()};
  std::thread rank0(
      [&] { EXPECT_TRUE((*first)->Connect(FullMeshOptions(endpoints, 0, Wiring::kTcp)).ok()); });
  EXPECT_TRUE((*second)->Connect(FullMeshOptions(endpoints, 1, Wiring::kTcp)).ok());
  rank0.join();
}

// RFC 4231, test cases 1 and 2.
TEST(HandshakeTest, HmacSha256GivesThePublishedValues) {
  const auto hex = [](const Mac& mac) {
    return absl::BytesToHexString(
        absl::string_view(reinterpret_cast<const char*>(mac.data()), mac.size()));
  };
  const auto bytes = [](const char* text) {
    return absl::MakeConstSpan(reinterpret_cast<const uint8_t*>(text), strlen(text));
  };
  EXPECT_EQ(hex(HmacSha256(std::string(20, '\x0b'), bytes("Hi There"))),
            "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7");
  EXPECT_EQ(hex(HmacSha256("Jefe", bytes("what do ya want for nothing?"))),
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
            "");
}

}  // namespace
}  // namespace bora

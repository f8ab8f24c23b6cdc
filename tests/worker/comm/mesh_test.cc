// What a healthy mesh computes and moves, on every kind of link.
#include "worker/comm/mesh.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>

#include "absl/strings/str_cat.h"
#include "tests/worker/comm/comm_test_util.h"
#include "worker/comm/link/link.h"

namespace bora {
namespace {

constexpr uint32_t kSeed = 20240607;

std::vector<float> RandomFloats(int rank, int64_t n) {
  std::mt19937 generator(kSeed + static_cast<uint32_t>(rank));
  // Magnitudes from 2^-20 to 2^20, so that another order of sums gives other bits.
  std::uniform_real_distribution<float> exponent(-20.0f, 20.0f);
  std::uniform_real_distribution<float> mantissa(-1.0f, 1.0f);
  std::vector<float> data(static_cast<size_t>(n));
  for (float& value : data) value = mantissa(generator) * std::exp2(exponent(generator));
  return data;
}

// The contract's tree, written down once more: the largest power of two below the size on the left.
std::vector<float> SumOfTree(const std::vector<int>& group, int64_t n) {
  if (group.size() == 1) return RandomFloats(group[0], n);
  size_t n_left = 1;
  while (2 * n_left < group.size()) n_left *= 2;
  const auto middle = group.begin() + static_cast<std::ptrdiff_t>(n_left);
  std::vector<float> sum = SumOfTree({group.begin(), middle}, n);
  const std::vector<float> right = SumOfTree({middle, group.end()}, n);
  for (size_t i = 0; i < sum.size(); ++i) sum[i] = sum[i] + right[i];
  return sum;
}

bool SameBits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && (a.empty() || memcmp(a.data(), b.data(), a.size() * 4) == 0);
}

std::vector<uint8_t> Pattern(int rank, size_t n) {
  std::vector<uint8_t> bytes(n);
  for (size_t i = 0; i < n; ++i) bytes[i] = static_cast<uint8_t>(i * 31 + i / 251 + 7u * rank);
  return bytes;
}

struct MeshCase {
  Wiring wiring;
  int n_ranks;
  int spin_us;
};

class MeshTest : public testing::TestWithParam<MeshCase> {
 protected:
  // Small rings make every large message wrap around and wait for space many times.
  void Run(const std::function<void(Mesh&)>& body) {
    RunRanks(GetParam().n_ranks, GetParam().wiring, body, [](MeshOptions* options) {
      options->ring_bytes = 16384;
      options->spin_us = GetParam().spin_us;
    });
  }
};

TEST_P(MeshTest, LinksAreOfTheKindTheHostsAllow) {
  Run([](Mesh& mesh) {
    for (int peer = 0; peer < GetParam().n_ranks; ++peer) {
      if (peer == mesh.my_rank()) continue;
      const bool shares_host =
          GetParam().wiring == Wiring::kSharedMemory ||
          (GetParam().wiring == Wiring::kMixed && peer < 2 && mesh.my_rank() < 2);
      EXPECT_EQ(mesh.link_kind(peer), shares_host ? LinkKind::kSharedMemory : LinkKind::kTcp);
    }
  });
}

TEST_P(MeshTest, AllReduceSumHasTheBitsOfTheTree) {
  const std::vector<int> group = AllRanks(GetParam().n_ranks);
  // 8192 floats are the last direct size, 8193 the first scattered one; 100 leaves empty parts.
  for (const int64_t n : {0, 1, 3, 17, 100, 4096, 8192, 8193, 33333, 1000001}) {
    const std::vector<float> expected = SumOfTree(group, n);
    Run([&](Mesh& mesh) {
      std::vector<float> data = RandomFloats(mesh.my_rank(), n);
      const absl::Status status = mesh.AllReduceSum(group, absl::MakeSpan(data));
      EXPECT_TRUE(status.ok()) << status;
      EXPECT_TRUE(SameBits(data, expected))
          << "rank " << mesh.my_rank() << ", n " << n << ", seed " << kSeed;
    });
  }
}

TEST_P(MeshTest, AllGatherAndGatherToKeepRankOrder) {
  const std::vector<int> group = AllRanks(GetParam().n_ranks);
  Run([&](Mesh& mesh) {
    for (const int64_t n : {1, 1000, 70001}) {
      std::vector<float> expected;
      for (const int rank : group) {
        const std::vector<float> part = RandomFloats(rank, n);
        expected.insert(expected.end(), part.begin(), part.end());
      }
      const std::vector<float> local = RandomFloats(mesh.my_rank(), n);
      std::vector<float> all(expected.size());
      ASSERT_TRUE(mesh.AllGather(group, local, absl::MakeSpan(all)).ok());
      EXPECT_TRUE(SameBits(all, expected));
      const int root = group.back();
      std::vector<float> gathered(mesh.my_rank() == root ? expected.size() : 0);
      ASSERT_TRUE(mesh.GatherTo(root, group, local, absl::MakeSpan(gathered)).ok());
      EXPECT_TRUE(mesh.my_rank() != root || SameBits(gathered, expected));
    }
  });
}

TEST_P(MeshTest, MessagesArriveWholeAndInOrder) {
  const int n_ranks = GetParam().n_ranks;
  Run([&](Mesh& mesh) {
    const int next = (mesh.my_rank() + 1) % n_ranks;
    const int previous = (mesh.my_rank() + n_ranks - 1) % n_ranks;
    for (const size_t n : {0, 1, 15, 4099, 16368}) {
      // Everybody sends first: within the capacity that must not block.
      ASSERT_TRUE(mesh.Send(next, Pattern(mesh.my_rank(), n)).ok());
      std::vector<uint8_t> message(n);
      ASSERT_TRUE(mesh.Recv(previous, absl::MakeSpan(message)).ok());
      EXPECT_EQ(message, Pattern(previous, n));
    }
  });
}

TEST_P(MeshTest, PipelinePingPongOfLargeMessages) {
  Run([&](Mesh& mesh) {
    std::vector<uint8_t> message = Pattern(0, 300001);
    for (int round = 0; round < 10 && mesh.my_rank() < 2; ++round) {
      const int peer = 1 - mesh.my_rank();
      if (mesh.my_rank() == 0) {
        ASSERT_TRUE(mesh.Send(peer, message).ok());
      }
      std::vector<uint8_t> received(message.size());
      ASSERT_TRUE(mesh.Recv(peer, absl::MakeSpan(received)).ok());
      EXPECT_EQ(received, message);
      if (mesh.my_rank() == 1) {
        ASSERT_TRUE(mesh.Send(peer, message).ok());
      }
    }
  });
}

TEST_P(MeshTest, ManySmallOperationsStayInStep) {
  const std::vector<int> group = AllRanks(GetParam().n_ranks);
  Run([&](Mesh& mesh) {
    for (int round = 0; round < 500; ++round) {
      float value = static_cast<float>(mesh.my_rank() + round);
      ASSERT_TRUE(mesh.AllReduceSum(group, absl::MakeSpan(&value, 1)).ok());
      const int n = GetParam().n_ranks;
      ASSERT_EQ(value, static_cast<float>(n * round + n * (n - 1) / 2));
      if (round % 50 == 0) {
        ASSERT_TRUE(mesh.Barrier(group).ok());
      }
    }
  });
}

INSTANTIATE_TEST_SUITE_P(
    , MeshTest,
    testing::Values(MeshCase{Wiring::kSharedMemory, 2, -1}, MeshCase{Wiring::kSharedMemory, 2, 0},
                    MeshCase{Wiring::kTcp, 2, -1}, MeshCase{Wiring::kSharedMemory, 3, 0},
                    MeshCase{Wiring::kTcp, 3, 0}, MeshCase{Wiring::kMixed, 3, 20},
                    MeshCase{Wiring::kSharedMemory, 4, 0}, MeshCase{Wiring::kTcp, 4, 0},
                    MeshCase{Wiring::kMixed, 4, -1}, MeshCase{Wiring::kSharedMemory, 5, 0},
                    MeshCase{Wiring::kMixed, 8, 0}),
    [](const testing::TestParamInfo<MeshCase>& info) {
      const MeshCase& c = info.param;
      return absl::StrCat(WiringName(c.wiring), c.n_ranks, "Spin",
                          c.spin_us < 0 ? "Auto" : absl::StrCat(c.spin_us));
    });

TEST(MeshSubgroupTest, SubgroupsReduceIndependently) {
  const std::vector<std::vector<int>> groups = {{0, 2}, {1, 3}, {0, 1, 3}, {1, 2, 3}};
  std::vector<std::vector<float>> expected;
  for (const std::vector<int>& group : groups) expected.push_back(SumOfTree(group, 9001));
  for (const Wiring wiring : {Wiring::kSharedMemory, Wiring::kTcp, Wiring::kMixed}) {
    RunRanks(4, wiring, [&](Mesh& mesh) {
      for (int round = 0; round < 20; ++round) {
        for (size_t i = 0; i < groups.size(); ++i) {
          if (std::count(groups[i].begin(), groups[i].end(), mesh.my_rank()) == 0) continue;
          std::vector<float> data = RandomFloats(mesh.my_rank(), 9001);
          const absl::Status status = mesh.AllReduceSum(groups[i], absl::MakeSpan(data));
          ASSERT_TRUE(status.ok()) << status;
          EXPECT_TRUE(SameBits(data, expected[i]));
        }
      }
    });
  }
}

// The capacity rule of mesh.h at its limit: both sides fill a direction before receiving.
TEST(MeshCapacityTest, BothSidesMaySendTheWholeCapacityFirst) {
  for (const Wiring wiring : {Wiring::kSharedMemory, Wiring::kTcp}) {
    RunRanks(2, wiring, [](Mesh& mesh) {
      constexpr int64_t kRingBytes = int64_t{1} << 20;
      const int peer = 1 - mesh.my_rank();
      const std::vector<uint8_t> half = Pattern(mesh.my_rank(), kRingBytes / 2 - 16);
      for (int round = 0; round < 20; ++round) {
        ASSERT_TRUE(mesh.Send(peer, half).ok());
        ASSERT_TRUE(mesh.Send(peer, half).ok());
        std::vector<uint8_t> received(half.size());
        for (int i = 0; i < 2; ++i) {
          ASSERT_TRUE(mesh.Recv(peer, absl::MakeSpan(received)).ok());
          ASSERT_EQ(received, Pattern(peer, half.size()));
        }
      }
    });
  }
}

// TCP drains into the inbox also while the receiver waits for somebody else.
TEST(MeshCapacityTest, SendCompletesWhileTheReceiverWaitsForAnotherRank) {
  for (const Wiring wiring : {Wiring::kSharedMemory, Wiring::kTcp}) {
    RunRanks(3, wiring, [](Mesh& mesh) {
      const std::vector<uint8_t> message = Pattern(0, (1 << 20) - 16);
      std::vector<uint8_t> received(message.size());
      uint8_t token = 0;
      if (mesh.my_rank() == 0) {
        ASSERT_TRUE(mesh.Send(1, message).ok());
        ASSERT_TRUE(mesh.Send(2, absl::MakeConstSpan(&token, 1)).ok());
      } else if (mesh.my_rank() == 1) {
        ASSERT_TRUE(mesh.Recv(2, absl::MakeSpan(&token, 1)).ok());
        ASSERT_TRUE(mesh.Recv(0, absl::MakeSpan(received)).ok());
        EXPECT_EQ(received, message);
      } else {
        ASSERT_TRUE(mesh.Recv(0, absl::MakeSpan(&token, 1)).ok());
        ASSERT_TRUE(mesh.Send(1, absl::MakeConstSpan(&token, 1)).ok());
      }
    });
  }
}

TEST(MeshArgumentsTest, BadArgumentsLeaveTheMeshUsable) {
  RunRanks(2, Wiring::kSharedMemory, [](Mesh& mesh) {
    std::vector<float> data = {1.0f};
    const auto code = [&](std::vector<int> group) {
      return mesh.AllReduceSum(group, absl::MakeSpan(data)).code();
    };
    EXPECT_EQ(code({1, 0}), absl::StatusCode::kInvalidArgument);
    EXPECT_EQ(code({0, 0}), absl::StatusCode::kInvalidArgument);
    EXPECT_EQ(code({1 - mesh.my_rank()}), absl::StatusCode::kInvalidArgument);
    EXPECT_EQ(code({}), absl::StatusCode::kInvalidArgument);
    EXPECT_EQ(code({0, 1, 5}), absl::StatusCode::kInvalidArgument);
    EXPECT_EQ(mesh.Send(9, {}).code(), absl::StatusCode::kInvalidArgument);
    EXPECT_EQ(mesh.AllGather({0, 1}, data, absl::MakeSpan(data)).code(),
              absl::StatusCode::kInvalidArgument);
    EXPECT_EQ(code({0, 1}), absl::StatusCode::kOk);
    EXPECT_EQ(data[0], 2.0f);
  });
}

TEST(MeshMismatchTest, CallsThatDoNotMatchAreNamedOnBothSides) {
  for (const Wiring wiring : {Wiring::kSharedMemory, Wiring::kTcp}) {
    RunRanks(2, wiring, [](Mesh& mesh) {
      std::vector<float> data(mesh.my_rank() == 0 ? 100 : 101);
      const absl::Status status = mesh.AllReduceSum({0, 1}, absl::MakeSpan(data));
      // The slower rank may find its peer gone already.
      if (status.code() == absl::StatusCode::kInternal) {
        EXPECT_NE(status.message().find("AllReduceSum of 4"), absl::string_view::npos) << status;
      } else {
        EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable) << status;
      }
      EXPECT_EQ(mesh.Barrier({0, 1}), status) << "the error must be sticky";
    });
  }
}

}  // namespace
}  // namespace bora

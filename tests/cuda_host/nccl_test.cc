// The operations of kernels/nccl/nccl_communicator.h with the library of fake_nccl.cc, between
// threads and once between processes. Inputs are small integers: sums are exact.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <functional>
#include <memory>
#include <thread>
#include <tuple>
#include <vector>

#include "tests/cuda_host/block.h"
#include "tests/cuda_host/byte_ring.h"
#include "tests/cuda_host/nccl_testing.h"

namespace bora {
namespace {

using testing::Each;

// More than a ring holds, and no multiple of anything.
constexpr int64_t kManyFloats = 200'003;

// body on each rank of a new communicator, with its stream.
void OnRanks(int n_ranks, const std::function<void(NcclCommunicator&, CudaStream&)>& body) {
  const std::unique_ptr<NcclLibrary> library = OpenFake();
  const NcclId id = MakeId(*library);
  OnThreads(n_ranks, [&](int rank) {
    const auto communicator = MustConnect(*library, OptionsOf(id, rank, n_ranks));
    CudaStream stream = NewStream();
    body(*communicator, stream);
    stream.Synchronize();
    EXPECT_TRUE(communicator->AsyncError().ok()) << communicator->AsyncError();
  });
}

// The value of a rank at i.
float ValueOf(int rank, int64_t i) { return static_cast<float>(rank * 1000 + i % 251); }

// [n]
std::vector<float> PartOf(int rank, int64_t n) {
  std::vector<float> part(static_cast<size_t>(n));
  for (int64_t i = 0; i < n; ++i) part[static_cast<size_t>(i)] = ValueOf(rank, i);
  return part;
}

// The parts of all ranks, one after another. [n_ranks, n]
std::vector<float> PartsOf(int n_ranks, int64_t n) {
  std::vector<float> parts;
  for (int rank = 0; rank < n_ranks; ++rank) {
    const std::vector<float> part = PartOf(rank, n);
    parts.insert(parts.end(), part.begin(), part.end());
  }
  return parts;
}

// [n]
std::vector<float> SumOf(int n_ranks, int64_t n) {
  std::vector<float> sum(static_cast<size_t>(n), 0.0F);
  for (int rank = 0; rank < n_ranks; ++rank) {
    const std::vector<float> part = PartOf(rank, n);
    for (size_t i = 0; i < sum.size(); ++i) sum[i] += part[i];
  }
  return sum;
}

// How many ranks, and how many floats each has.
class NcclSizesTest : public testing::TestWithParam<std::tuple<int, int64_t>> {
 protected:
  int n_ranks() const { return std::get<0>(GetParam()); }
  int64_t n() const { return std::get<1>(GetParam()); }
};
INSTANTIATE_TEST_SUITE_P(Sizes, NcclSizesTest,
                         testing::Combine(testing::Values(1, 2, 3, 4),
                                          testing::Values(0, 1, 7, kManyFloats)));

TEST_P(NcclSizesTest, AllReduceSumsInPlace) {
  OnRanks(n_ranks(), [this](NcclCommunicator& communicator, CudaStream& stream) {
    std::vector<float> data = PartOf(communicator.rank(), n());
    ASSERT_TRUE(communicator.AllReduceSum(stream.get(), data.data(), n()).ok());
    stream.Synchronize();
    EXPECT_EQ(data, SumOf(n_ranks(), n()));
  });
}

TEST_P(NcclSizesTest, AllGatherFromOutsideAndInPlace) {
  OnRanks(n_ranks(), [this](NcclCommunicator& communicator, CudaStream& stream) {
    const std::vector<float> local = PartOf(communicator.rank(), n());
    std::vector<float> all(static_cast<size_t>(n() * n_ranks()), -1.0F);
    ASSERT_TRUE(communicator.AllGather(stream.get(), local.data(), all.data(), n()).ok());
    std::vector<float> in_place(all);
    float* const own = in_place.data() + communicator.rank() * n();
    std::copy(local.begin(), local.end(), own);
    ASSERT_TRUE(communicator.AllGather(stream.get(), own, in_place.data(), n()).ok());
    stream.Synchronize();
    EXPECT_EQ(all, PartsOf(n_ranks(), n()));
    EXPECT_EQ(in_place, all);
  });
}

TEST_P(NcclSizesTest, GatherToEachRank) {
  OnRanks(n_ranks(), [this](NcclCommunicator& communicator, CudaStream& stream) {
    for (int root = 0; root < n_ranks(); ++root) {
      for (const bool in_place : {false, true}) {
        const bool is_root = communicator.rank() == root;
        std::vector<float> local = PartOf(communicator.rank(), n());
        std::vector<float> all(is_root ? static_cast<size_t>(n() * n_ranks()) : 0, -1.0F);
        float* source = local.data();
        if (in_place && is_root) {
          source = all.data() + root * n();
          std::copy(local.begin(), local.end(), source);
        }
        ASSERT_TRUE(
            communicator.GatherTo(stream.get(), root, source, is_root ? all.data() : nullptr, n())
                .ok());
        stream.Synchronize();
        EXPECT_EQ(all, is_root ? PartsOf(n_ranks(), n()) : std::vector<float>());
      }
    }
  });
}

// Rank i sends i's part, times j + 1, to rank j.
TEST_P(NcclSizesTest, AllToAllExchangesParts) {
  OnRanks(n_ranks(), [this](NcclCommunicator& communicator, CudaStream& stream) {
    const int rank = communicator.rank();
    std::vector<float> data, want;
    for (int peer = 0; peer < n_ranks(); ++peer) {
      for (const float value : PartOf(rank, n()))
        data.push_back(value * static_cast<float>(peer + 1));
      for (const float value : PartOf(peer, n()))
        want.push_back(value * static_cast<float>(rank + 1));
    }
    std::vector<float> parts(want.size(), -1.0F);
    ASSERT_TRUE(communicator.AllToAll(stream.get(), data.data(), parts.data(), n()).ok());
    stream.Synchronize();
    EXPECT_EQ(parts, want);
  });
}

TEST_P(NcclSizesTest, BroadcastFromEachRank) {
  OnRanks(n_ranks(), [this](NcclCommunicator& communicator, CudaStream& stream) {
    for (int root = 0; root < n_ranks(); ++root) {
      std::vector<uint8_t> data(static_cast<size_t>(n()),
                                static_cast<uint8_t>(communicator.rank() + 1));
      ASSERT_TRUE(communicator.Broadcast(stream.get(), root, data.data(), n()).ok());
      stream.Synchronize();
      EXPECT_EQ(data, std::vector<uint8_t>(data.size(), static_cast<uint8_t>(root + 1)));
    }
  });
}

// Each rank but the first waits for what comes before it sends on.
TEST_P(NcclSizesTest, SendAndReceiveDownALine) {
  OnRanks(n_ranks(), [this](NcclCommunicator& communicator, CudaStream& stream) {
    const int rank = communicator.rank();
    const int64_t n_bytes = n() * 3 + (n() > 0 ? 1 : 0);
    std::vector<uint8_t> data(static_cast<size_t>(n_bytes), rank == 0 ? 77 : 0);
    if (rank > 0) {
      ASSERT_TRUE(communicator.Recv(stream.get(), rank - 1, data.data(), n_bytes).ok());
    }
    if (rank + 1 < n_ranks()) {
      ASSERT_TRUE(communicator.Send(stream.get(), rank + 1, data.data(), n_bytes).ok());
    }
    stream.Synchronize();
    EXPECT_EQ(data, std::vector<uint8_t>(data.size(), 77));
  });
}

// A tree would give 0 here: 1e8 + 1 rounds to 1e8.
TEST(NcclTest, SumsInAscendingOrder) {
  OnRanks(4, [](NcclCommunicator& communicator, CudaStream& stream) {
    const float values[] = {1e8F, 1.0F, -1e8F, 1.0F};
    float data = values[communicator.rank()];
    ASSERT_TRUE(communicator.AllReduceSum(stream.get(), &data, 1).ok());
    stream.Synchronize();
    EXPECT_EQ(data, 1.0F);
  });
}

// Whether work is tried as it is queued, or only when it is waited for.
TEST(NcclTest, ManyOperationsQueueUp) {
  for (const bool eager : {false, true}) {
    cuda_host::SetRunOptions({.eager_copies = eager});
    OnRanks(3, [](NcclCommunicator& communicator, CudaStream& stream) {
      float counter = 1;
      std::vector<float> all(3);
      for (int i = 0; i < 12; ++i) {
        ASSERT_TRUE(communicator.AllReduceSum(stream.get(), &counter, 1).ok());
        ASSERT_TRUE(communicator.AllGather(stream.get(), &counter, all.data(), 1).ok());
        ASSERT_TRUE(communicator.Broadcast(stream.get(), i % 3, &counter, 4).ok());
      }
      stream.Synchronize();
      EXPECT_EQ(counter, 531441.0F);  // 3^12
      EXPECT_THAT(all, Each(531441.0F));
    });
  }
  cuda_host::SetRunOptions({});
}

// More than the rings hold goes both ways at once.
TEST(NcclTest, TwoCommunicatorsPointInOppositeDirections) {
  const std::unique_ptr<NcclLibrary> library = OpenFake();
  const NcclId down_id = MakeId(*library);
  const NcclId up_id = MakeId(*library);
  OnThreads(2, [&](int rank) {
    const auto down = MustConnect(*library, OptionsOf(down_id, rank, 2));
    const auto up = MustConnect(*library, OptionsOf(up_id, rank, 2));
    CudaStream down_stream = NewStream();
    CudaStream up_stream = NewStream();
    const int64_t n_bytes = kManyFloats * 4;
    std::vector<float> own = PartOf(rank, kManyFloats);
    std::vector<float> other(own.size());
    if (rank == 0) {
      ASSERT_TRUE(down->Send(down_stream.get(), 1, own.data(), n_bytes).ok());
      ASSERT_TRUE(up->Recv(up_stream.get(), 1, other.data(), n_bytes).ok());
    } else {
      ASSERT_TRUE(up->Send(up_stream.get(), 0, own.data(), n_bytes).ok());
      ASSERT_TRUE(down->Recv(down_stream.get(), 0, other.data(), n_bytes).ok());
    }
    down_stream.Synchronize();
    up_stream.Synchronize();
    EXPECT_EQ(other, PartOf(1 - rank, kManyFloats));
  });
}

TEST(NcclTest, AGraphIsLaunchedAgainAndAgain) {
  OnRanks(2, [](NcclCommunicator& communicator, CudaStream& stream) {
    std::vector<float> data(kManyFloats, 0.0F);
    std::vector<float> all(2 * kManyFloats, 0.0F);
    absl::StatusOr<CudaGraph> graph = CudaGraph::Capture(stream, [&] {
      EXPECT_TRUE(communicator.AllReduceSum(stream.get(), data.data(), kManyFloats).ok());
      EXPECT_TRUE(
          communicator.GatherTo(stream.get(), 1, data.data(), all.data(), kManyFloats).ok());
    });
    ASSERT_TRUE(graph.ok()) << graph.status();
    EXPECT_THAT(data, Each(0.0F));
    for (int run = 0; run < 3; ++run) {
      const std::vector<float> part = PartOf(communicator.rank() + run, kManyFloats);
      std::copy(part.begin(), part.end(), data.begin());
      graph->Launch(stream);
      stream.Synchronize();
      std::vector<float> sum = PartOf(run, kManyFloats);
      const std::vector<float> other = PartOf(run + 1, kManyFloats);
      for (size_t i = 0; i < sum.size(); ++i) sum[i] += other[i];
      EXPECT_EQ(data, sum);
      sum.insert(sum.end(), data.begin(), data.end());
      EXPECT_TRUE(communicator.rank() == 0 || all == sum);
    }
    graph->Launch(stream);  // two in the queue
    graph->Launch(stream);
    stream.Synchronize();
    EXPECT_EQ(data[1], (ValueOf(2, 1) + ValueOf(3, 1)) * 4);
  });
}

TEST(NcclTest, RanksAreProcesses) {
  const std::unique_ptr<NcclLibrary> library = OpenFake();
  const NcclId id = MakeId(*library);
  const auto run = [&](int rank) {
    const auto communicator = MustConnect(*library, OptionsOf(id, rank, 2));
    CudaStream stream = NewStream();
    std::vector<float> data = PartOf(rank, kManyFloats);
    if (!communicator->AllReduceSum(stream.get(), data.data(), kManyFloats).ok()) return false;
    stream.Synchronize();
    return data == SumOf(2, kManyFloats);
  };
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) _exit(run(1) ? 0 : 1);
  EXPECT_TRUE(run(0));
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
}

// Both ends on one mapping, as ThreadSanitizer wants it.
TEST(ByteRingTest, OneThreadWritesAndAnotherReads) {
  const auto ring = std::make_unique<cuda_host::ByteRing>();
  constexpr uint64_t kTotal = 3'000'017;
  const auto byte_at = [](uint64_t i) { return static_cast<uint8_t>(i * 131 >> 3); };
  std::thread writer([&] {
    std::vector<uint8_t> piece(70'001);
    for (uint64_t sent = 0; sent < kTotal;) {
      const uint64_t n = std::min<uint64_t>(piece.size(), kTotal - sent);
      for (uint64_t i = 0; i < n; ++i) piece[i] = byte_at(sent + i);
      sent += ring->Write(piece.data(), n);
      std::this_thread::yield();
    }
  });
  std::vector<uint8_t> piece(30'011);
  uint64_t n_wrong = 0;
  for (uint64_t received = 0; received < kTotal;) {
    const uint64_t n = ring->Read(piece.data(), piece.size());
    for (uint64_t i = 0; i < n; ++i) n_wrong += piece[i] != byte_at(received + i) ? 1 : 0;
    received += n;
    std::this_thread::yield();
  }
  writer.join();
  EXPECT_EQ(n_wrong, 0U);
}

}  // namespace
}  // namespace bora

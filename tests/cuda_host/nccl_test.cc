// kernels/nccl_communicator.h with the library of fake_nccl.cc, whose ranks are threads here, each
// with a stream of its own, and once processes. Inputs are small integers: sums are exact.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <functional>
#include <future>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/check.h"
#include "kernels/cuda_runtime.h"
#include "kernels/nccl_communicator.h"
#include "tests/cuda_host/byte_ring.h"

namespace bora {
namespace {

using testing::AllOf;
using testing::Each;
using testing::HasSubstr;

constexpr absl::Duration kPatience = absl::Seconds(30);
// More than a ring holds, and no multiple of anything.
constexpr int64_t kManyFloats = 200'003;

// An environment variable for as long as this lives.
class ScopedEnv {
 public:
  ScopedEnv(const char* name, const char* value) : name_(name) { setenv(name, value, 1); }
  ~ScopedEnv() { unsetenv(name_); }

 private:
  const char* const name_;
};

std::unique_ptr<NcclLibrary> OpenFake() {
  absl::StatusOr<std::unique_ptr<NcclLibrary>> library = NcclLibrary::Open(BORA_FAKE_NCCL);
  CHECK_OK(library.status());
  return *std::move(library);
}

NcclId MakeId(const NcclLibrary& library) {
  const absl::StatusOr<NcclId> id = library.MakeId();
  CHECK_OK(id.status());
  return *id;
}

NcclCommunicatorOptions OptionsOf(const NcclId& id, int rank, int n_ranks) {
  NcclCommunicatorOptions options;
  options.id = id;
  options.rank = rank;
  options.n_ranks = n_ranks;
  options.name = "test";
  options.deadline = absl::Now() + kPatience;
  return options;
}

CudaStream NewStream() {
  absl::StatusOr<CudaStream> stream = CudaStream::Create();
  CHECK_OK(stream.status());
  return *std::move(stream);
}

std::unique_ptr<NcclCommunicator> MustConnect(const NcclLibrary& library,
                                              const NcclCommunicatorOptions& options) {
  absl::StatusOr<std::unique_ptr<NcclCommunicator>> connected =
      NcclCommunicator::Connect(&library, options);
  CHECK_OK(connected.status());
  return *std::move(connected);
}

// body(rank) on as many threads as there are ranks.
void OnThreads(int n_ranks, const std::function<void(int)>& body) {
  std::vector<std::thread> threads;
  threads.reserve(static_cast<size_t>(n_ranks));
  for (int rank = 0; rank < n_ranks; ++rank) threads.emplace_back(body, rank);
  for (std::thread& thread : threads) thread.join();
}

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

TEST(NcclTest, ManyOperationsQueueUp) {
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

// Waits for the stream while another thread does something.
void SynchronizeWhile(const CudaStream& stream, const std::function<void()>& watch) {
  std::thread watchdog(watch);
  stream.Synchronize();
  watchdog.join();
}

class NcclMismatchTest : public testing::Test {
 protected:
  // What rank 1 sees when both queue these; rank 0 may see nothing.
  void Expect(const std::function<void(NcclCommunicator&, CUstream_st*)>& rank0,
              const std::function<void(NcclCommunicator&, CUstream_st*)>& rank1,
              const std::string& text) {
    const std::unique_ptr<NcclLibrary> library = OpenFake();
    const NcclId id = MakeId(*library);
    std::promise<void> has_seen;
    OnThreads(2, [&](int rank) {
      const auto communicator = MustConnect(*library, OptionsOf(id, rank, 2));
      CudaStream stream = NewStream();
      if (rank == 0) {
        rank0(*communicator, stream.get());
        SynchronizeWhile(stream, [&] {
          has_seen.get_future().wait();
          communicator->Abort();
        });
        return;
      }
      rank1(*communicator, stream.get());
      absl::Status seen;
      SynchronizeWhile(stream, [&] {
        const absl::Time deadline = absl::Now() + kPatience;
        while (seen.ok() && absl::Now() < deadline) seen = communicator->AsyncError();
        communicator->Abort();
      });
      EXPECT_EQ(seen.code(), absl::StatusCode::kInternal);
      EXPECT_THAT(std::string(seen.message()), AllOf(HasSubstr("test rank 1 of 2"),
                                                     HasSubstr("invalid usage"), HasSubstr(text)));
      has_seen.set_value();
    });
  }

  std::vector<float> a_ = std::vector<float>(64);
  std::vector<float> b_ = std::vector<float>(64);
};

TEST_F(NcclMismatchTest, AnotherSize) {
  Expect(
      [this](NcclCommunicator& c, CUstream_st* s) {
        EXPECT_TRUE(c.AllReduceSum(s, a_.data(), 3).ok());
      },
      [this](NcclCommunicator& c, CUstream_st* s) {
        EXPECT_TRUE(c.AllReduceSum(s, b_.data(), 4).ok());
      },
      "all-reduce from root 0 of 16 bytes as message 0, and it sent all-reduce from root 0 of 12");
}

TEST_F(NcclMismatchTest, AnotherOperation) {
  Expect(
      [this](NcclCommunicator& c, CUstream_st* s) { EXPECT_TRUE(c.Send(s, 1, a_.data(), 8).ok()); },
      [this](NcclCommunicator& c, CUstream_st* s) {
        EXPECT_TRUE(c.AllReduceSum(s, b_.data(), 2).ok());
      },
      "all-reduce from root 0 of 8 bytes as message 0, and it sent send");
}

TEST_F(NcclMismatchTest, AnotherOrder) {
  Expect(
      [this](NcclCommunicator& c, CUstream_st* s) {
        EXPECT_TRUE(c.Broadcast(s, 0, a_.data(), 8).ok());
        EXPECT_TRUE(c.Send(s, 1, a_.data(), 8).ok());
      },
      [this](NcclCommunicator& c, CUstream_st* s) {
        EXPECT_TRUE(c.Recv(s, 0, b_.data(), 8).ok());
        EXPECT_TRUE(c.Broadcast(s, 0, b_.data(), 8).ok());
      },
      "send from root 0 of 8 bytes as message 0, and it sent broadcast");
}

TEST(NcclConnectTest, AMissingRankIsWaitedForUntilTheDeadline) {
  const std::unique_ptr<NcclLibrary> library = OpenFake();
  NcclCommunicatorOptions options = OptionsOf(MakeId(*library), 1, 2);
  options.deadline = absl::Now() + absl::Milliseconds(30);
  const auto connected = NcclCommunicator::Connect(library.get(), options);
  EXPECT_EQ(connected.status().code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_THAT(std::string(connected.status().message()), HasSubstr("test rank 1 of 2"));
  // Nothing is left of the meeting.
  const std::string file(reinterpret_cast<const char*>(options.id.data()));
  EXPECT_NE(access(file.c_str(), F_OK), 0) << file;
}

TEST(NcclConnectTest, IsCancelled) {
  const std::unique_ptr<NcclLibrary> library = OpenFake();
  NcclCommunicatorOptions options = OptionsOf(MakeId(*library), 0, 2);
  int n_asked = 0;
  options.is_cancelled = [&n_asked] { return ++n_asked == 3; };
  const auto connected = NcclCommunicator::Connect(library.get(), options);
  EXPECT_EQ(connected.status().code(), absl::StatusCode::kAborted);
  EXPECT_EQ(n_asked, 3);
}

TEST(NcclConnectTest, ARankComesOnce) {
  const std::unique_ptr<NcclLibrary> library = OpenFake();
  const NcclId id = MakeId(*library);
  NcclCommunicatorOptions options = OptionsOf(id, 0, 2);
  options.is_cancelled = [&] {
    const auto twice = NcclCommunicator::Connect(library.get(), OptionsOf(id, 0, 2));
    EXPECT_EQ(twice.status().code(), absl::StatusCode::kInternal);
    EXPECT_THAT(std::string(twice.status().message()), HasSubstr("rank 0 came twice"));
    const auto other = NcclCommunicator::Connect(library.get(), OptionsOf(id, 1, 3));
    EXPECT_THAT(std::string(other.status().message()), HasSubstr("another number of ranks"));
    return true;
  };
  EXPECT_FALSE(NcclCommunicator::Connect(library.get(), options).ok());
}

TEST(NcclConnectTest, NoFileIsLeftWhenAllHaveCome) {
  const std::unique_ptr<NcclLibrary> library = OpenFake();
  const NcclId id = MakeId(*library);
  OnThreads(2, [&](int rank) { MustConnect(*library, OptionsOf(id, rank, 2)); });
  EXPECT_NE(access(reinterpret_cast<const char*>(id.data()), F_OK), 0);
}

TEST(NcclAbortTest, EndsWhatWaitsForAPeer) {
  const std::unique_ptr<NcclLibrary> library = OpenFake();
  const NcclId id = MakeId(*library);
  OnThreads(2, [&](int rank) {
    const auto communicator = MustConnect(*library, OptionsOf(id, rank, 2));
    if (rank == 1) return;  // and never sends
    std::vector<float> data(8);
    CudaStream stream = NewStream();
    EXPECT_TRUE(communicator->Recv(stream.get(), 1, data.data(), 32).ok());
    EXPECT_TRUE(communicator->AllReduceSum(stream.get(), data.data(), 8).ok());
    SynchronizeWhile(stream, [&] { communicator->Abort(); });
    EXPECT_EQ(communicator->AllReduceSum(stream.get(), data.data(), 8).code(),
              absl::StatusCode::kAborted);
    EXPECT_EQ(communicator->AllReduceSum(stream.get(), data.data(), 0).code(),
              absl::StatusCode::kAborted);
    EXPECT_EQ(communicator->AsyncError().code(), absl::StatusCode::kAborted);
    communicator->Abort();
  });
}

// The second launch of two operations is the third and fourth.
TEST(NcclAbortTest, EndsAnOperationThatHangs) {
  const ScopedEnv hang("FAKE_NCCL_HANG_AFTER", "4");
  const std::unique_ptr<NcclLibrary> library = OpenFake();
  const auto communicator = MustConnect(*library, OptionsOf(MakeId(*library), 0, 1));
  float data = 5;
  float gathered = 0;
  CudaStream stream = NewStream();
  const absl::StatusOr<CudaGraph> graph = CudaGraph::Capture(stream, [&] {
    EXPECT_TRUE(communicator->AllReduceSum(stream.get(), &data, 1).ok());
    EXPECT_TRUE(communicator->GatherTo(stream.get(), 0, &data, &gathered, 1).ok());
  });
  ASSERT_TRUE(graph.ok());
  graph->Launch(stream);
  stream.Synchronize();
  EXPECT_EQ(gathered, 5);
  gathered = 0;
  graph->Launch(stream);
  std::promise<void> end;
  std::thread watchdog([&] {
    EXPECT_EQ(end.get_future().wait_for(std::chrono::milliseconds(50)),
              std::future_status::timeout);
    EXPECT_TRUE(communicator->AsyncError().ok());
    communicator->Abort();
  });
  stream.Synchronize();
  end.set_value();
  watchdog.join();
  EXPECT_EQ(gathered, 0);
}

// In a process of its own: its thread never comes back.
TEST(NcclAbortTest, MayHang) {
  const ScopedEnv hangs("FAKE_NCCL_ABORT_HANGS", "1");
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    const std::unique_ptr<NcclLibrary> library = OpenFake();
    auto communicator = MustConnect(*library, OptionsOf(MakeId(*library), 0, 1));
    std::promise<void> end;
    std::future<void> has_ended = end.get_future();
    std::thread([&] {
      communicator->Abort();
      end.set_value();
    }).detach();
    while (communicator->AsyncError().ok()) std::this_thread::yield();
    const bool hangs =
        has_ended.wait_for(std::chrono::milliseconds(50)) == std::future_status::timeout;
    communicator.reset();  // does not wait for it
    _exit(hangs ? 0 : 1);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
}

TEST(NcclLibraryTest, TellsItsVersion) {
  const std::unique_ptr<NcclLibrary> library = OpenFake();
  EXPECT_EQ(library->version(), 22809);
  EXPECT_EQ(library->version_text(), "2.28.9");
}

TEST(NcclLibraryTest, IdsDiffer) {
  const std::unique_ptr<NcclLibrary> library = OpenFake();
  std::set<NcclId> ids;
  for (int i = 0; i < 10; ++i) ids.insert(MakeId(*library));
  EXPECT_EQ(ids.size(), 10U);
}

TEST(NcclLibraryTest, MissingLibraryIsNamed) {
  const auto library = NcclLibrary::Open("/nonexistent/libnccl.so.2");
  EXPECT_EQ(library.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(library.status().message()),
              AllOf(HasSubstr("NCCL"), HasSubstr("/nonexistent/libnccl.so.2")));
}

TEST(NcclLibraryTest, AnotherLibraryLacksTheFunctions) {
  const auto library = NcclLibrary::Open("libm.so.6");
  EXPECT_EQ(library.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(library.status().message()),
              AllOf(HasSubstr("libm.so.6"), HasSubstr("ncclGetVersion")));
}

TEST(NcclLibraryTest, OldVersionIsRefused) {
  for (const auto& [version, text] : {std::pair("21705", "2.17.5"), std::pair("2708", "2.7.8")}) {
    const ScopedEnv old("FAKE_NCCL_VERSION", version);
    const auto library = NcclLibrary::Open(BORA_FAKE_NCCL);
    EXPECT_EQ(library.status().code(), absl::StatusCode::kUnavailable);
    EXPECT_THAT(std::string(library.status().message()),
                AllOf(HasSubstr(BORA_FAKE_NCCL), HasSubstr(text), HasSubstr("2.18.0")));
  }
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

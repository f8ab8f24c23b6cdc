// What kernels/nccl/nccl_library.h and nccl_communicator.h say when the library or a rank is
// missing, ranks do not do the same, or an operation hangs; with the library of fake_nccl.cc.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <functional>
#include <future>
#include <memory>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "tests/cuda_host/nccl_testing.h"

namespace bora {
namespace {

using testing::AllOf;
using testing::HasSubstr;

// An environment variable for as long as this lives.
class ScopedEnv {
 public:
  ScopedEnv(const char* name, const char* value) : name_(name) { setenv(name, value, 1); }
  ~ScopedEnv() { unsetenv(name_); }

 private:
  const char* const name_;
};

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
        const SteadyTime deadline = SteadyNow() + kPatience;
        while (seen.ok() && SteadyNow() < deadline) seen = communicator->AsyncError();
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
  options.deadline = SteadyNow() + absl::Milliseconds(30);
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

}  // namespace
}  // namespace bora

// NCCL itself where it is installed: as far as it goes without a GPU, and with one as far as one
// rank goes.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>

#include "base/clock.h"
#include "kernels/cuda/runtime/cuda_runtime.h"
#include "kernels/nccl/nccl_communicator.h"

namespace bora {
namespace {

using testing::AllOf;
using testing::HasSubstr;

class NcclTest : public testing::Test {
 protected:
  void SetUp() override {
    absl::StatusOr<std::unique_ptr<NcclLibrary>> library = NcclLibrary::Open();
    if (!library.ok()) {
      EXPECT_EQ(library.status().code(), absl::StatusCode::kUnavailable);
      EXPECT_THAT(std::string(library.status().message()), HasSubstr("libnccl.so"));
      GTEST_SKIP() << library.status();
    }
    library_ = *std::move(library);
    const auto devices = ListCudaDevices();
    has_gpu_ = devices.ok() && !devices->empty();
  }

  NcclCommunicatorOptions OneRank() {
    NcclCommunicatorOptions options;
    const absl::StatusOr<NcclId> id = library_->MakeId();
    EXPECT_TRUE(id.ok()) << id.status();
    if (id.ok()) options.id = *id;
    options.name = "test";
    options.deadline = SteadyNow() + absl::Seconds(30);
    return options;
  }

  std::unique_ptr<NcclLibrary> library_;
  bool has_gpu_ = false;
};

TEST_F(NcclTest, TellsItsVersion) {
  EXPECT_GE(library_->version(), 21800);
  EXPECT_THAT(library_->version_text(), HasSubstr("2."));
}

TEST_F(NcclTest, IdsDiffer) {
  const absl::StatusOr<NcclId> one = library_->MakeId();
  const absl::StatusOr<NcclId> other = library_->MakeId();
  ASSERT_TRUE(one.ok()) << one.status();
  ASSERT_TRUE(other.ok()) << other.status();
  EXPECT_NE(*one, *other);
}

TEST_F(NcclTest, SaysThatThereIsNoGpu) {
  if (has_gpu_) GTEST_SKIP() << "there is one";
  const NcclCommunicatorOptions options = OneRank();
  const auto connected = NcclCommunicator::Connect(library_.get(), options);
  EXPECT_LT(SteadyNow(), options.deadline);
  EXPECT_EQ(connected.status().code(), absl::StatusCode::kInternal);
  EXPECT_THAT(std::string(connected.status().message()),
              AllOf(HasSubstr("NCCL test rank 0 of 1"), HasSubstr("CUDA")));
}

// A rank that has no peer, eagerly and by a graph; then the abort.
TEST_F(NcclTest, OneRankExchangesWithItself) {
  if (!has_gpu_) GTEST_SKIP() << "no GPU";
  ASSERT_TRUE(OpenCudaDevice(0).ok());
  auto connected = NcclCommunicator::Connect(library_.get(), OneRank());
  ASSERT_TRUE(connected.ok()) << connected.status();
  NcclCommunicator& communicator = **connected;
  absl::StatusOr<CudaStream> stream = CudaStream::Create();
  ASSERT_TRUE(stream.ok());
  constexpr int64_t kN = 1000;
  constexpr int64_t kBytes = kN * 4;
  absl::StatusOr<CudaBuffer> local = CudaBuffer::Allocate(kBytes, "local");
  absl::StatusOr<CudaBuffer> all = CudaBuffer::Allocate(kBytes, "all");
  absl::StatusOr<PinnedBuffer> host = PinnedBuffer::Allocate(kBytes, "host");
  ASSERT_TRUE(local.ok() && all.ok() && host.ok());
  auto* const from = reinterpret_cast<float*>(local->data());
  auto* const to = reinterpret_cast<float*>(all->data());
  const auto queue = [&] {
    EXPECT_TRUE(communicator.AllReduceSum(stream->get(), from, kN).ok());
    EXPECT_TRUE(communicator.GatherTo(stream->get(), 0, from, to, kN).ok());
    EXPECT_TRUE(communicator.Broadcast(stream->get(), 0, to, kBytes).ok());
  };
  const auto expect = [&](uint8_t byte) {
    CopyToHost(stream->get(), host->data(), to, kBytes);
    stream->Synchronize();
    EXPECT_EQ(host->data()[0], byte);
    EXPECT_EQ(host->data()[kBytes - 1], byte);
  };
  FillDevice(stream->get(), from, 1, kBytes);
  queue();
  expect(1);
  {
    const absl::StatusOr<CudaGraph> graph = CudaGraph::Capture(*stream, queue);
    ASSERT_TRUE(graph.ok()) << graph.status();
    for (uint8_t byte = 2; byte < 5; ++byte) {
      FillDevice(stream->get(), from, byte, kBytes);
      graph->Launch(*stream);
      expect(byte);
    }
  }
  EXPECT_TRUE(communicator.AsyncError().ok());
  communicator.Abort();
  EXPECT_EQ(communicator.AllReduceSum(stream->get(), from, kN).code(), absl::StatusCode::kAborted);
}

}  // namespace
}  // namespace bora

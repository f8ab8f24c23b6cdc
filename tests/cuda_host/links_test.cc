// How a rank leaves communicators whose work waits for each other's.
#include <gtest/gtest.h>

#include <chrono>
#include <future>
#include <memory>
#include <thread>
#include <vector>

#include "base/check.h"
#include "tests/cuda_host/nccl_testing.h"
#include "worker/cuda/cuda_links.h"

namespace bora {
namespace {

// The computing stream waits for sampled tokens that never come; behind that wait is a sum of the
// tensor group. The tensor group's abort waits for the computing stream, which only the abort of
// the other communicator lets go on.
TEST(CudaLinksTest, AbortEndsCommunicatorsWhoseStreamsWaitForEachOther) {
  const std::unique_ptr<NcclLibrary> library = OpenFake();
  const NcclId tensor_id = MakeId(*library), feedback_id = MakeId(*library);
  OnThreads(2, [&](int rank) {
    CudaLinks links;
    links.tensor = MustConnect(*library, OptionsOf(tensor_id, rank, 2));
    links.feedback = MustConnect(*library, OptionsOf(feedback_id, rank, 2));
    if (rank == 1) return;  // and does nothing more
    const CudaStream compute = NewStream(), side = NewStream();
    absl::StatusOr<CudaEvent> arrived = CudaEvent::Create();
    CHECK_OK(arrived.status());
    std::vector<float> data(8), tokens(8);
    EXPECT_TRUE(links.feedback->Broadcast(side.get(), /*root=*/1, tokens.data(), 32).ok());
    arrived->Record(side);
    compute.WaitFor(*arrived);
    EXPECT_TRUE(links.tensor->AllReduceSum(compute.get(), data.data(), 8).ok());
    std::promise<void> ended;
    std::thread aborting([&] {
      links.Abort();
      ended.set_value();
    });
    CHECK(ended.get_future().wait_for(absl::ToChronoSeconds(kPatience)) ==
          std::future_status::ready)
        << "the abort does not end";
    aborting.join();
    compute.Synchronize();
    side.Synchronize();
  });
}

}  // namespace
}  // namespace bora

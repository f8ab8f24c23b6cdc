#include "kernels/cuda/runtime/cuda_requirements.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

namespace bora {
namespace {

using testing::HasSubstr;

CudaDeviceInfo Gpu(const char* name, int major, int minor, int64_t max_shared_bytes) {
  CudaDeviceInfo info;
  info.ordinal = 1;
  info.name = name;
  info.major = major;
  info.minor = minor;
  info.limits.max_shared_bytes = max_shared_bytes;
  return info;
}

TEST(CudaRequirementsTest, TakesWhatTheKernelsWereMadeFor) {
  EXPECT_TRUE(CheckCudaRequirements(Gpu("A100", 8, 0, 163 << 10)).ok());
  EXPECT_TRUE(CheckCudaRequirements(Gpu("H100", 9, 0, 227 << 10)).ok());
}

TEST(CudaRequirementsTest, RefusesArchitecturesWithoutCode) {
  for (const int major : {7, 10}) {
    const absl::Status status = CheckCudaRequirements(Gpu("Other", major, 5, 227 << 10));
    EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
    EXPECT_THAT(std::string(status.message()),
                HasSubstr("cuda:1: Other has compute capability " + std::to_string(major) + ".5"));
  }
}

TEST(CudaRequirementsTest, RefusesTooLittleSharedMemoryWithBothNumbers) {
  const absl::Status status = CheckCudaRequirements(Gpu("L40S", 8, 9, 99 << 10));
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(
      std::string(status.message()),
      HasSubstr("L40S gives a block 101376 bytes of shared memory, this build takes 163840"));
}

}  // namespace
}  // namespace bora

// Opening cuBLASLt where it, or the GPU, is missing.
#include "kernels/cuda/runtime/cublas_lt.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/match.h"
#include "kernels/cuda/runtime/cuda_runtime.h"

namespace bora {
namespace {

using testing::AllOf;
using testing::HasSubstr;

TEST(CublasLtTest, MissingLibraryIsNamed) {
  const auto library = CublasLt::Create("/nonexistent/libcublasLt.so.13");
  EXPECT_EQ(library.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(library.status().message()),
              AllOf(HasSubstr("cuBLASLt"), HasSubstr("/nonexistent/libcublasLt.so.13")));
}

TEST(CublasLtTest, AnotherLibraryLacksTheFunctions) {
  const auto library = CublasLt::Create("libm.so.6");
  EXPECT_EQ(library.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(library.status().message()),
              AllOf(HasSubstr("libm.so.6"), HasSubstr("cublasLtCreate")));
}

// Whether the library is there or not, without a GPU it is of no use.
TEST(CublasLtTest, OpensWhereThereIsAGpu) {
  const auto devices = ListCudaDevices();
  const auto library = CublasLt::Create();
  if (devices.ok() && !devices->empty()) {
    // Missing or of another version; one that does not see the GPU is an error.
    if (absl::IsUnavailable(library.status()) &&
        !absl::StrContains(library.status().message(), "finds no GPU")) {
      GTEST_SKIP() << library.status().message();
    }
    ASSERT_TRUE(library.ok()) << library.status();
    EXPECT_THAT((*library)->version(), HasSubstr("."));
  } else {
    EXPECT_EQ(library.status().code(), absl::StatusCode::kUnavailable);
    EXPECT_THAT(std::string(library.status().message()), HasSubstr("libcublasLt.so"));
  }
}

}  // namespace
}  // namespace bora

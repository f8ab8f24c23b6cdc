// Which algorithms are chosen, and when, by a library that remembers (fake_cublas_lt.cc).
#include <dlfcn.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>

#include "kernels/cuda/runtime/cublas_lt.h"
#include "tests/cuda/cuda_testing.h"

namespace bora {
namespace {

// What the fake library has counted.
int64_t Fake(const char* name) {
  void* const library = dlopen(BORA_CUBLAS_LT, RTLD_NOW | RTLD_NOLOAD);
  CHECK(library != nullptr);
  return reinterpret_cast<int64_t (*)()>(dlsym(library, name))();
}

class CublasLtChoiceTest : public testing::Test {
 protected:
  CublasLtChoiceTest() {
    auto library = CublasLt::Create(BORA_CUBLAS_LT);
    CHECK_OK(library.status());
    library_ = *std::move(library);
    weight_ = {.format = WeightFormat::kBf16,
               .layout = WeightLayout::kGatedRows,
               .data = w_.data(),
               .n_rows = 32,
               .n_cols = 16};
  }

  int64_t AlgorithmRows(int64_t m) {
    DeviceArray<Bf16> x(m * 16);
    DeviceArray<float> y(m * 32);
    library_->MatMul(device_, x.data(), m, weight_, y.data());
    return Fake("FakeLastAlgorithmRows");
  }

  CudaDevice device_{nullptr};
  std::unique_ptr<CublasLt> library_;
  DeviceArray<Bf16> w_{32 * 16};
  PackedWeight weight_;
};

TEST_F(CublasLtChoiceTest, EachPowerOfTwoIsChosenOnce) {
  const int64_t before = Fake("FakeHeuristics");
  library_->Prepare(weight_, 100);
  EXPECT_EQ(Fake("FakeHeuristics") - before, 8);  // 1 to 128
  library_->Prepare(weight_, 64);
  library_->Prepare(weight_, 128);
  AlgorithmRows(100);
  EXPECT_EQ(Fake("FakeHeuristics") - before, 8);
}

TEST_F(CublasLtChoiceTest, AProductUsesTheNextPowerOfTwo) {
  library_->Prepare(weight_, 100);
  EXPECT_EQ(AlgorithmRows(1), 1);
  EXPECT_EQ(AlgorithmRows(2), 2);
  EXPECT_EQ(AlgorithmRows(64), 64);
  EXPECT_EQ(AlgorithmRows(65), 128);
  EXPECT_EQ(AlgorithmRows(100), 128);
}

TEST_F(CublasLtChoiceTest, AnAlgorithmThatRefusesIsReplacedByTheNext) {
  library_->Prepare(weight_, 100);
  EXPECT_EQ(AlgorithmRows(3), 8);
}

TEST_F(CublasLtChoiceTest, AShapeMustHaveBeenPrepared) {
  EXPECT_DEATH(AlgorithmRows(1), "1 rows of 16 were not prepared for 32 outputs");
  library_->Prepare(weight_, 64);
  EXPECT_DEATH(AlgorithmRows(65), "65 rows of 16 were not prepared");
}

TEST(CublasLtVersionTest, AnotherMajorVersionIsRefused) {
  const auto library = CublasLt::Create(BORA_OLD_CUBLAS_LT);
  EXPECT_EQ(library.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(library.status().message()), testing::HasSubstr("version 12.8.4"));
}

}  // namespace
}  // namespace bora

// What the tests of CUDA's operations share. Each test file is compiled once and linked twice: with
// the operations executed on the CPU (tests/cuda_host/run_modes.cc) and with those of a GPU
// (tests/gpu/run_modes.cc).
#pragma once

#include <gtest/gtest.h>

#include <cstring>
#include <optional>
#include <string>
#include <type_traits>
#include <vector>

#include "base/check.h"
#include "kernels/cuda/runtime/cuda_device.h"
#include "kernels/cuda/runtime/cuda_runtime.h"
#include "kernels/kv_cache.h"

namespace bora {

// Ways to run a kernel that must all give right results: on the CPU the orders that CUDA leaves
// open, on a GPU one. Entering a mode gives what operations may ask of the device; UNAVAILABLE when
// there is no GPU.
std::vector<std::string> CudaRunModes();
absl::StatusOr<CudaLimits> EnterCudaRunMode(const std::string& mode);
void LeaveCudaRunMode();

// Numbers in device memory, exactly as many as there are, so that an access beyond them is seen.
template <typename T>
class DeviceArray {
 public:
  static_assert(std::is_trivially_copyable_v<T>);
  explicit DeviceArray(const std::vector<T>& values) : n_(static_cast<int64_t>(values.size())) {
    auto buffer = CudaBuffer::Allocate(n_bytes(), "test");
    CHECK_OK(buffer.status());
    buffer_ = *std::move(buffer);
    if (n_ > 0) CopyToDevice(nullptr, buffer_.data(), values.data(), n_bytes());
  }
  // Full of 0xff: NaN in float and bf16.
  explicit DeviceArray(int64_t n) : DeviceArray(Filled(n)) {}

  T* data() { return reinterpret_cast<T*>(buffer_.data()); }
  const T* data() const { return reinterpret_cast<const T*>(buffer_.data()); }
  int64_t size() const { return n_; }

  std::vector<T> ToHost() const {
    std::vector<T> values(n_);
    if (n_ > 0) CopyToHost(nullptr, values.data(), buffer_.data(), n_bytes());
    return values;
  }

 private:
  int64_t n_bytes() const { return n_ * static_cast<int64_t>(sizeof(T)); }
  static std::vector<T> Filled(int64_t n) {
    std::vector<T> values(n);
    if (n > 0) std::memset(static_cast<void*>(values.data()), 0xff, n * sizeof(T));
    return values;
  }

  int64_t n_;
  CudaBuffer buffer_;
};

// The arrays of a step in device memory.
class DeviceTokens {
 public:
  explicit DeviceTokens(const StepTokensView& host)
      : row_begin_(Copy(host.row_begin, host.n_rows + 1)),
        row_position_(Copy(host.row_position, host.n_rows)),
        positions_(Copy(host.positions, host.n_tokens)),
        token_row_(Copy(host.token_table_row, host.n_tokens)),
        block_table_(Copy(host.block_table, host.n_rows * host.max_blocks_per_row)),
        view_(host) {
    view_.row_begin = row_begin_.data();
    view_.row_position = row_position_.data();
    view_.positions = positions_.data();
    view_.token_table_row = token_row_.data();
    view_.block_table = block_table_.data();
  }
  const StepTokensView& view() const { return view_; }

 private:
  static std::vector<int32_t> Copy(const int32_t* values, int64_t n) {
    return {values, values + n};
  }

  DeviceArray<int32_t> row_begin_, row_position_, positions_, token_row_, block_table_;
  StepTokensView view_;
};

class CudaTest : public testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    const absl::StatusOr<CudaLimits> limits = EnterCudaRunMode(GetParam());
    if (absl::IsUnavailable(limits.status())) GTEST_SKIP() << limits.status().message();
    ASSERT_TRUE(limits.ok()) << limits.status();
    device_.emplace(nullptr, *limits);
  }
  void TearDown() override { LeaveCudaRunMode(); }

  // The device, with at least so many bytes of scratch.
  CudaDevice& Device(int64_t scratch_bytes = 0) {
    if (scratch_bytes > 0) {
      scratch_.emplace(scratch_bytes);
      device_->SetScratch(scratch_->data(), scratch_bytes);
    }
    return *device_;
  }

 private:
  std::optional<CudaDevice> device_;
  std::optional<DeviceArray<uint8_t>> scratch_;
};

inline std::string CudaRunModeName(const testing::TestParamInfo<std::string>& info) {
  return info.param;
}

}  // namespace bora

// What the tests of kernels on the CPU share: every test runs in the orders that CUDA leaves open.
#pragma once

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "kernels/cuda/runtime/cuda_device.h"
#include "tests/cuda_host/block.h"
#include "tests/cuda_host/race.h"

namespace bora::cuda_host {

// Copies late and early; where it is cheap enough, two random orders of threads as well.
inline std::vector<RunOptions> AllRunOptions() {
  std::vector<RunOptions> all = {{.eager_copies = false}, {.eager_copies = true}};
  if (HasAddressSanitizer()) {
    all.push_back({.eager_copies = false, .order_seed = 1});
    all.push_back({.eager_copies = true, .order_seed = 2});
  }
  return all;
}

inline std::string NameOf(const RunOptions& options) {
  return std::string(options.eager_copies ? "Eager" : "Late") +
         (options.order_seed == 0 ? "" : "Seed" + std::to_string(options.order_seed));
}

inline std::string RunOptionsName(const testing::TestParamInfo<RunOptions>& info) {
  return NameOf(info.param);
}

class CudaHostTest : public testing::TestWithParam<RunOptions> {
 protected:
  CudaHostTest() { SetRunOptions(GetParam()); }
  ~CudaHostTest() override { SetRunOptions({}); }

  CudaDevice device_{nullptr};
};

}  // namespace bora::cuda_host

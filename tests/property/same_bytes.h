// The groups of ranks that same_bytes_test.cc drives. The test is linked with the layouts of the
// device that it is for: same_bytes_cpu.cc or tests/cuda/same_bytes_cuda.cc.
#pragma once

#include <string>
#include <vector>

#include "tests/worker/local_group.h"
#include "worker/weights/rank_weights.h"

namespace bora {

// Requests that mixes are drawn from, a multiple of 5; each is run alone first.
extern const int kSameBytesPool;

struct SameBytesLayout {
  std::string name;
  int tp_size = 1;
  int pp_size = 1;
  WeightFormat format = WeightFormat::kBf16;
  int n_mixes = 0;
};

std::vector<SameBytesLayout> SameBytesLayouts();

// A group of the tiny model's limits, its KV cache NaN where nothing was written.
LocalGroupOptions GroupOf(const SameBytesLayout& layout);

}  // namespace bora

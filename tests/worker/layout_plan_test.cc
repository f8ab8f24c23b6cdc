// The planner's memory against what a worker allocates: model/ cannot ask it.
#include "model/planning/layout_plan.h"

#include <gtest/gtest.h>

#include "model/planning/partition.h"
#include "tests/model/mistral_7b.h"
#include "worker/stage/stage.h"
#include "worker/weights/weight_plan.h"

namespace bora {
namespace {

TEST(LayoutPlanMemoryTest, IsWhatAWorkerAllocates) {
  const ModelConfig config = Mistral7B();
  const DeviceFleet fleet = {.memory_bytes = 141'000'000'000};
  const PlannedLoad load = {.context_tokens = 8192, .n_sequences = 16};
  GroupLimits limits;
  limits.max_num_seqs = 16;
  limits.max_num_batched_tokens = static_cast<int32_t>(load.max_chunk_tokens);
  limits.max_model_len = 8192;
  limits.vocab_size = 32000;
  const WorkspaceForm gpu = {.input_bytes = 2, .head_tile_rows = 256, .keeps_gate_up = false};
  for (const int tp_size : {1, 2, 4, 8}) {
    for (const int pp_size : {1, 2, 4}) {
      const auto partition = MakePartition(config, tp_size, pp_size);
      ASSERT_TRUE(partition.ok()) << partition.status();
      for (int stage = 0; stage < pp_size; ++stage) {
        const RankShape shape = ShapeOfRank(config, *partition, stage, 0);
        const RankMemory memory = PlanRankMemory(config, shape, fleet, load);
        EXPECT_EQ(memory.weight_bytes, RankWeightBytes(config, shape, DType::kBf16, kCudaMatrices));
        EXPECT_EQ(memory.kv_token_bytes * 16, KvBytesPerBlock(config, shape, DType::kBf16, 16));
        // Activations and logits are exact; the estimate has room for sampling and tables.
        const int64_t activation_bytes = StageWorkspaceBytes(config, shape, limits, gpu);
        EXPECT_GE(memory.workspace_bytes, activation_bytes);
        EXPECT_LE(memory.workspace_bytes, activation_bytes + (int64_t{128} << 20));
      }
    }
  }
}

}  // namespace
}  // namespace bora

// A simulated rank says of itself what a real one would, from the config alone.
#include "worker/sim/sim_rank_loader.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <string>

#include "absl/strings/str_cat.h"
#include "model/checkpoint/dummy_weights.h"
#include "tests/worker/tiny_model.h"
#include "worker/stage/stage.h"

namespace bora {
namespace {

class SimRankLoaderTest : public testing::Test {
 protected:
  SimRankLoaderTest() {
    std::filesystem::create_directories(directory_);
    std::ofstream(directory_ + "/config.json") << ToHfConfigJson(TinyConfig(), "bfloat16");
    load_.model_path = directory_;
    load_.dtype = "bfloat16";
    load_.tensor_parallel_size = 2;
    load_.layers_per_stage = {3, 1};
    load_.stage = 1;
    load_.tensor_rank = 1;
  }
  ~SimRankLoaderTest() override { std::filesystem::remove_all(directory_); }

  const std::string directory_ = absl::StrCat(testing::TempDir(), "sim_rank_loader.", getpid());
  LoadModel load_;
  SimRankLoader loader_{SimCost()};
};

TEST_F(SimRankLoaderTest, AConfigIsEnough) {
  for (const bool dummy_weights : {false, true}) {
    load_.dummy_weights = dummy_weights;
    const auto result = loader_.Load(load_, {});
    ASSERT_TRUE(result.ok()) << result.status();
    EXPECT_EQ(result->rank->config(), TinyConfig());
    EXPECT_EQ(result->rank->shape().layers, (LayerRange{3, 4}));
    const LoadedModel& loaded = result->loaded;
    EXPECT_EQ(loaded.load, load_);
    EXPECT_EQ(loaded.fingerprint, DummyWeights(TinyConfig(), 0).fingerprint().ToHex());
    EXPECT_EQ(loaded.weight_bytes, 0);
    EXPECT_EQ(loaded.kv_block_bytes,
              KvBytesPerBlock(TinyConfig(), result->rank->shape(), DType::kBf16, 16));
    EXPECT_GT(loaded.max_blocks, 1 << 16);
  }
}

TEST_F(SimRankLoaderTest, RefusesWhatARealRankWould) {
  load_.dtype = "float64";
  EXPECT_EQ(loader_.Load(load_, {}).status().code(), absl::StatusCode::kInvalidArgument);
  load_.dtype = "float32";
  load_.layers_per_stage = {3, 2};
  EXPECT_EQ(loader_.Load(load_, {}).status().code(), absl::StatusCode::kInvalidArgument);
  load_.model_path = "/nowhere";
  EXPECT_EQ(loader_.Load(load_, {}).status().code(), absl::StatusCode::kNotFound);
}

TEST_F(SimRankLoaderTest, SaysThatItIsSimulated) {
  EXPECT_EQ(loader_.DeviceName(), "sim (base_us=2000, token_us=10, context_us=0.01)");
}

}  // namespace
}  // namespace bora

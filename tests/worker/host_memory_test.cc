// What memory a worker may take, and that a rank which does not fit is refused with the numbers.
#include "worker/weights/host_memory.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "absl/strings/str_cat.h"
#include "model/config.h"
#include "tests/model/temp_dir.h"
#include "worker/cpu/cpu_rank_loader.h"
#include "worker/weights/aligned_buffer.h"

namespace bora {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr char kMemInfo[] =
    "MemTotal:       24689764 kB\nMemFree:          100000 kB\nMemAvailable:   20000000 kB\n";

void Write(const std::string& path, const std::string& text) {
  std::ofstream(path) << text << "\n";
}

TEST(HostMemoryTest, IsWhatMachineAndControlGroupsLeave) {
  const TempDir dir;
  EXPECT_EQ(AvailableMemoryBytes(kMemInfo, dir.path(), "0::/a\n"), int64_t{20000000} * 1024);
  Write(dir.File("memory.max"), "3000000");
  Write(dir.File("memory.current"), "2500000");
  Write(dir.File("memory.stat"), "inactive_file 700000\nactive_file 300000");
  EXPECT_EQ(AvailableMemoryBytes(kMemInfo, dir.path(), "0::/a\n"), 1500000);
  EXPECT_EQ(AvailableMemoryBytes("MemAvailable: 1000 kB\n", dir.path(), "0::/a\n"), 1024000);
  EXPECT_GT(AvailableMemoryBytes("", dir.path(), ""), 0);
}

TEST(HostMemoryTest, BuffersThatDoNotFitAreRefusedBeforeTheyAreTouched) {
  const auto buffer = AlignedBuffer::AllocatePopulated(int64_t{1} << 50, "KV cache");
  EXPECT_EQ(buffer.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(buffer.status().message()),
              AllOf(HasSubstr("KV cache: 1125899906842624 bytes are needed, "),
                    HasSubstr(" are available (")));
}

// Keys and values of one request of 2^24 tokens take 4 TiB.
TEST(HostMemoryTest, ARankThatDoesNotFitIsRefusedWithItsNumbers) {
  ModelConfig config;
  config.architecture = "mistral";
  config.dim = 64;
  config.hidden_dim = 64;
  config.n_layers = 32;
  config.n_heads = 8;
  config.n_kv_heads = 8;
  config.head_dim = 128;
  config.vocab_size = 100;
  config.max_position = kMaxPosition;
  config.rope_theta = 1e4;
  config.norm_eps = 1e-5;
  const TempDir dir;
  Write(dir.File("config.json"), ToHfConfigJson(config, "float32"));
  LoadModel load;
  load.model_path = dir.path();
  load.dummy_weights = true;
  load.dtype = "float32";
  load.layers_per_stage = {32};
  load.max_model_len = static_cast<int32_t>(kMaxPosition);
  load.max_num_seqs = 1;
  load.max_num_batched_tokens = 16;
  CpuRankLoader loader({.n_threads = 1});
  const auto refused = loader.Load(load, {});
  EXPECT_EQ(refused.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(refused.status().message()),
              AllOf(HasSubstr("weights "), HasSubstr("working memory "),
                    HasSubstr("keys and values of one request of 16777216 tokens 4398046511104"),
                    HasSubstr("--max-model-len")));
  load.max_model_len = 64;
  EXPECT_TRUE(loader.Load(load, {}).ok());
}

}  // namespace
}  // namespace bora

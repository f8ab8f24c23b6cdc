// What bora-make-checkpoint writes reads back as the dummy weights of the same seed.
#include "model/tools/make_checkpoint.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>

#include "model/checkpoint/dummy_weights.h"
#include "tests/model/model_test_util.h"

namespace bora {
namespace {

using ::testing::HasSubstr;

float RoundTo(FileDType dtype, float value) {
  if (dtype == FileDType::kF16) return HalfToFloat(FloatToHalf(value));
  return dtype == FileDType::kBf16 ? RoundToBf16(value) : value;
}

using Case = std::tuple<CheckpointLayout, FileDType, int>;
class MakeCheckpointTest : public ::testing::TestWithParam<Case> {};

TEST_P(MakeCheckpointTest, ReadsBackAsDummyWeights) {
  const auto [layout, dtype, n_shards] = GetParam();
  const TempDir dir;
  const ModelConfig config = TinyConfig();
  const absl::Status status = WriteRandomCheckpoint(
      config, {.layout = layout, .dtype = dtype, .seed = 42, .n_shards = n_shards}, dir.File("m"));
  ASSERT_TRUE(status.ok()) << status;
  auto checkpoint = Checkpoint::Open(dir.File("m"));
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  const CheckpointWeights written(*std::move(checkpoint));
  const DummyWeights dummy(config, 42);
  for (const TensorId id : AllTensors(config)) {
    const TensorSlice whole = WholeTensor(ShapeOf(config, id));
    std::vector<float> got(whole.n_elements());
    std::vector<float> want(whole.n_elements());
    ASSERT_TRUE(written.ReadSlice(id, whole, absl::MakeSpan(got)).ok());
    ASSERT_TRUE(dummy.ReadSlice(id, whole, absl::MakeSpan(want)).ok());
    for (float& value : want) value = RoundTo(dtype, value);
    EXPECT_EQ(got, want) << TensorName(id);
  }
}

INSTANTIATE_TEST_SUITE_P(All, MakeCheckpointTest,
                         ::testing::Combine(::testing::Values(CheckpointLayout::kHuggingFace,
                                                              CheckpointLayout::kMistral),
                                            ::testing::Values(FileDType::kF32, FileDType::kF16,
                                                              FileDType::kBf16),
                                            ::testing::Values(1, 4)));

TEST(MakeCheckpointErrorTest, RefusesADirectoryThatIsNotEmpty) {
  const TempDir dir;
  WriteFile(dir.File("x"), "kept");
  const absl::Status status = WriteRandomCheckpoint(TinyConfig(), {}, dir.path());
  EXPECT_EQ(status.code(), absl::StatusCode::kAlreadyExists);
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(dir.path()), {}), 1);
}

TEST(MakeCheckpointErrorTest, RefusesOptionsThatDoNotFit) {
  const TempDir dir;
  const auto error = [&dir](const ModelConfig& config, const MakeCheckpointOptions& options) {
    const absl::Status status = WriteRandomCheckpoint(config, options, dir.File("m"));
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    return std::string(status.message());
  };
  EXPECT_THAT(error(TinyConfig(), {.n_shards = 0}), HasSubstr("shards is 0, must be in [1, 21]"));
  EXPECT_THAT(error(TinyConfig(), {.n_shards = 22}), HasSubstr("shards is 22"));
  EXPECT_THAT(error(TinyConfig(), {.dtype = FileDType::kI8}), HasSubstr("dtype is I8"));
  ModelConfig config = TinyConfig();
  config.n_layers = 0;
  EXPECT_THAT(error(config, {}), HasSubstr("n_layers is 0"));
  config = TinyConfig();
  config.eos_ids = {3};
  EXPECT_THAT(error(config, {.layout = CheckpointLayout::kMistral}),
              HasSubstr("params.json cannot"));
  EXPECT_FALSE(std::filesystem::exists(dir.File("m")));
}

// Runs the command with these arguments; its exit code and what it wrote to either stream.
std::pair<int, std::string> RunCommand(const std::string& arguments) {
  const std::string command =
      absl::StrCat(BORA_BINARY_DIR, "/bin/bora-make-checkpoint ", arguments, " 2>&1");
  FILE* pipe = popen(command.c_str(), "r");
  std::string output;
  char buffer[4096];
  for (size_t n; (n = fread(buffer, 1, sizeof(buffer), pipe)) > 0;) output.append(buffer, n);
  const int status = pclose(pipe);
  return {WIFEXITED(status) ? WEXITSTATUS(status) : -1, output};
}

constexpr char kTinyFlags[] =
    " --dim 24 --hidden-dim=40 --n_layers 2 --n-heads 4 --n-kv-heads 2 --head-dim 8"
    " --vocab-size 50 --max-position 128 --rope-theta 1e6 --norm-eps 1e-5";

TEST(MakeCheckpointCommandTest, WritesWhatTheFlagsSay) {
  const TempDir dir;
  WriteFile(dir.File("pieces"), "a tokenizer");
  const auto [code, output] =
      RunCommand(absl::StrCat(kTinyFlags, " --seed 9 --dtype f32 --layout mistral --shards 2",
                              " --tokenizer ", dir.File("pieces"), " --output ", dir.File("m")));
  ASSERT_EQ(code, 0) << output;
  EXPECT_THAT(output, HasSubstr("parameters"));
  const auto checkpoint = Checkpoint::Open(dir.File("m"));
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  EXPECT_EQ(checkpoint->layout(), CheckpointLayout::kMistral);
  EXPECT_EQ(checkpoint->config(), TinyConfig());
  EXPECT_TRUE(std::filesystem::exists(dir.File("m/tokenizer.model")));
}

TEST(MakeCheckpointCommandTest, TakesTheDimensionsFromAConfig) {
  const TempDir dir;
  WriteFile(dir.File("config.json"), ToHfConfigJson(TinyConfig(), "float32"));
  const auto [code, output] =
      RunCommand(absl::StrCat("--config ", dir.File("config.json"), " --output ", dir.File("m")));
  ASSERT_EQ(code, 0) << output;
  const auto checkpoint = Checkpoint::Open(dir.File("m"));
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  EXPECT_EQ(checkpoint->config(), TinyConfig());
}

TEST(MakeCheckpointCommandTest, TellsUsageErrorsFromFailures) {
  const TempDir dir;
  const std::string output = absl::StrCat(" --output ", dir.File("m"));
  for (const char* arguments :
       {"--no-such-flag 1", "--dim", "--dim x", "--dim 0", "--layout x", "--dtype int8",
        "--shards 9999", "stray", "--n-heads 3 --n-kv-heads 2"}) {
    EXPECT_EQ(RunCommand(arguments + output).first, 2) << arguments;
  }
  EXPECT_EQ(RunCommand("").first, 2) << "--output is required";
  WriteFile(dir.File("file"), "");
  EXPECT_EQ(RunCommand(absl::StrCat("--output ", dir.path())).first, 1);
  EXPECT_EQ(RunCommand(absl::StrCat("--output ", dir.File("file"), "/m")).first, 1);
  EXPECT_EQ(RunCommand(absl::StrCat("--config ", dir.File("none"), output)).first, 1);
  EXPECT_FALSE(std::filesystem::exists(dir.File("m")));
}

TEST(MakeCheckpointCommandTest, HelpListsItsFlags) {
  const auto [code, output] = RunCommand("--help");
  EXPECT_EQ(code, 0);
  EXPECT_THAT(output, HasSubstr("--hidden-dim"));
  EXPECT_THAT(output, HasSubstr("Exit codes"));
}

}  // namespace
}  // namespace bora

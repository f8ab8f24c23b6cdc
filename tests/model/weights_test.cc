// Reading weights by rectangles: from checkpoints of each dtype and layout, and made up.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <filesystem>
#include <limits>
#include <map>

#include "base/host/flush_subnormals.h"
#include "base/int_math.h"
#include "base/philox.h"
#include "model/checkpoint/dummy_weights.h"
#include "model/checkpoint/rotary_layout.h"
#include "model/checkpoint/weights_source.h"
#include "model/planning/partition.h"
#include "model/tools/make_checkpoint.h"
#include "tests/model/model_test_util.h"

namespace bora {
namespace {

using ::testing::HasSubstr;

template <typename T>
std::vector<T> Read(const WeightSource& source, TensorId id, const TensorSlice& slice) {
  std::vector<T> values(slice.n_elements());
  const absl::Status status = source.ReadSlice(id, slice, absl::MakeSpan(values));
  EXPECT_TRUE(status.ok()) << status;
  return values;
}

template <typename T = float>
std::vector<T> ReadWhole(const WeightSource& source, TensorId id) {
  return Read<T>(source, id, WholeTensor(ShapeOf(source.config(), id)));
}

std::unique_ptr<CheckpointWeights> OpenWeights(const std::string& dir) {
  auto checkpoint = Checkpoint::Open(dir);
  EXPECT_TRUE(checkpoint.ok()) << checkpoint.status();
  return std::make_unique<CheckpointWeights>(*std::move(checkpoint));
}

// A checkpoint of TinyConfig() in a directory of its own.
class TinyCheckpoint {
 public:
  explicit TinyCheckpoint(const MakeCheckpointOptions& options) {
    const absl::Status status = WriteRandomCheckpoint(TinyConfig(), options, dir());
    EXPECT_TRUE(status.ok()) << status;
  }
  std::string dir() const { return dir_.File("m"); }

 private:
  TempDir dir_;
};

std::vector<TensorSlice> SomeSlices(const TensorShape& shape) {
  const int64_t row = shape.n_rows / 2;
  const int64_t col = shape.n_cols / 3;
  return {WholeTensor(shape),
          {row, row, 0, shape.n_cols},
          {0, shape.n_rows, col, col},
          {row, shape.n_rows, col, shape.n_cols},
          {0, 1, 1, shape.n_cols - 1},
          {shape.n_rows - 1, shape.n_rows, shape.n_cols - 1, shape.n_cols}};
}

// Each slice must equal the same rectangle of the whole tensor.
template <typename T>
void ExpectSlicesMatch(const WeightSource& source) {
  for (const TensorId id : AllTensors(source.config())) {
    const TensorShape shape = ShapeOf(source.config(), id);
    const std::vector<T> whole = ReadWhole<T>(source, id);
    for (const TensorSlice& slice : SomeSlices(shape)) {
      const std::vector<T> part = Read<T>(source, id, slice);
      if (part.empty()) continue;
      for (int64_t row = 0; row < slice.n_rows(); ++row) {
        EXPECT_EQ(
            std::memcmp(part.data() + row * slice.n_cols(),
                        whole.data() + (slice.row_begin + row) * shape.n_cols + slice.col_begin,
                        slice.n_cols() * sizeof(T)),
            0)
            << TensorName(id) << " row " << slice.row_begin + row;
      }
    }
  }
}

TEST(CheckpointWeightsTest, SlicesAreRectanglesOfTheWhole) {
  for (const FileDType dtype : {FileDType::kF32, FileDType::kF16, FileDType::kBf16}) {
    for (const auto layout : {CheckpointLayout::kHuggingFace, CheckpointLayout::kMistral}) {
      const TinyCheckpoint checkpoint({.layout = layout, .dtype = dtype});
      const auto weights = OpenWeights(checkpoint.dir());
      ExpectSlicesMatch<float>(*weights);
      ExpectSlicesMatch<Bf16>(*weights);
    }
  }
}

// Trap 4: the rows of wq and wk are permuted on the way, exactly once, and no others.
TEST(CheckpointWeightsTest, BothLayoutsReadTheSame) {
  const TinyCheckpoint hf({.layout = CheckpointLayout::kHuggingFace, .dtype = FileDType::kF32});
  const TinyCheckpoint mistral({.layout = CheckpointLayout::kMistral, .dtype = FileDType::kF32});
  const auto hf_weights = OpenWeights(hf.dir());
  const auto mistral_weights = OpenWeights(mistral.dir());
  for (const TensorId id : AllTensors(TinyConfig())) {
    EXPECT_EQ(ReadWhole(*hf_weights, id), ReadWhole(*mistral_weights, id)) << TensorName(id);
  }
}

// What the files hold must be related as the published conversion relates them:
// hf = mistral.view(n_heads, head_dim / 2, 2, dim).transpose(1, 2).reshape(...).
TEST(CheckpointWeightsTest, StoredRowsFollowThePublishedConversion) {
  const TinyCheckpoint hf({.layout = CheckpointLayout::kHuggingFace, .dtype = FileDType::kF32});
  const TinyCheckpoint mistral({.layout = CheckpointLayout::kMistral, .dtype = FileDType::kF32});
  auto hf_tensors = ReadAll(hf.dir() + "/model.safetensors");
  auto mistral_tensors = ReadAll(mistral.dir() + "/consolidated.safetensors");
  const ModelConfig config = TinyConfig();
  const size_t row_bytes = config.dim * sizeof(float);
  const std::string& from = mistral_tensors["layers.1.attention.wk.weight"].bytes;
  std::string permuted;
  for (int64_t head = 0; head < config.n_kv_heads; ++head) {
    for (int64_t part = 0; part < 2; ++part) {
      for (int64_t pair = 0; pair < config.head_dim / 2; ++pair) {
        permuted += from.substr((head * config.head_dim + 2 * pair + part) * row_bytes, row_bytes);
      }
    }
  }
  EXPECT_EQ(permuted, hf_tensors["model.layers.1.self_attn.k_proj.weight"].bytes);
  EXPECT_NE(permuted, from);
  EXPECT_EQ(mistral_tensors["layers.1.attention.wv.weight"].bytes,
            hf_tensors["model.layers.1.self_attn.v_proj.weight"].bytes);
}

TEST(RotaryLayoutTest, TheTwoOrdersAreInverse) {
  for (int64_t row = 0; row < 32; ++row) {
    EXPECT_EQ(HalfRotationRow(InterleavedRow(row, 8), 8), row);
    EXPECT_EQ(InterleavedRow(HalfRotationRow(row, 8), 8), row);
    EXPECT_EQ(InterleavedRow(row, 8) / 8, row / 8) << "stays in its head";
  }
  EXPECT_EQ(InterleavedRow(9, 8), 10);
  EXPECT_EQ(InterleavedRow(12, 8), 9);
}

// One stored row of values chosen for their rounding, of the dtype under test.
template <typename Element>
std::unique_ptr<CheckpointWeights> WithNorm(const TinyCheckpoint& checkpoint, FileDType dtype,
                                            const std::vector<Element>& values) {
  const std::string path = checkpoint.dir() + "/model.safetensors";
  auto tensors = ReadAll(path);
  std::string bytes(values.size() * sizeof(Element), '\0');
  std::memcpy(bytes.data(), values.data(), bytes.size());
  bytes.resize(TinyConfig().dim * sizeof(Element), '\0');
  tensors["model.norm.weight"] = {dtype, {TinyConfig().dim}, bytes};
  WriteFile(path, SafetensorsBytes(tensors));
  return OpenWeights(checkpoint.dir());
}

constexpr TensorId kNormId = {TensorKind::kNorm, kNoLayer};

TEST(CheckpointWeightsTest, F32RoundsToNearestEvenBf16) {
  const TinyCheckpoint checkpoint({});
  // Spacing of bf16 in [1, 2) is 2^-7.
  const auto weights = WithNorm<float>(checkpoint, FileDType::kF32,
                                       {1.0f, 1.0f + 0x1p-8f, 1.0f + 3 * 0x1p-8f,
                                        1.0f + 0x1p-8f + 0x1p-20f, -1.0f - 0x1p-8f, 1e-40f});
  const std::vector<float> exact = Read<float>(*weights, kNormId, {0, 1, 0, 6});
  EXPECT_EQ(exact[3], 1.0f + 0x1p-8f + 0x1p-20f);
  EXPECT_EQ(exact[5], 1e-40f);
  const std::vector<Bf16> rounded = Read<Bf16>(*weights, kNormId, {0, 1, 0, 5});
  EXPECT_EQ(ToFloat(rounded[0]), 1.0f);
  EXPECT_EQ(ToFloat(rounded[1]), 1.0f) << "a tie goes to even";
  EXPECT_EQ(ToFloat(rounded[2]), 1.0f + 2 * 0x1p-7f) << "a tie goes to even";
  EXPECT_EQ(ToFloat(rounded[3]), 1.0f + 0x1p-7f);
  EXPECT_EQ(ToFloat(rounded[4]), -1.0f);
}

TEST(CheckpointWeightsTest, HalfIsExactInFloat) {
  const TinyCheckpoint checkpoint({});
  const auto weights = WithNorm<uint16_t>(checkpoint, FileDType::kF16,
                                          {0x3c00, 0x3c01, 0xc000, 0x0001, 0x03ff, 0x7bff, 0x8000});
  EXPECT_THAT(Read<float>(*weights, kNormId, {0, 1, 0, 7}),
              ::testing::ElementsAre(1.0f, 1.0f + 0x1p-10f, -2.0f, 0x1p-24f, 1023 * 0x1p-24f,
                                     65504.0f, -0.0f));
  EXPECT_EQ(ToFloat(Read<Bf16>(*weights, kNormId, {0, 1, 5, 6})[0]), 65536.0f);
}

ModelConfig ManyRowsConfig() {
  ModelConfig config = TinyConfig();
  config.vocab_size = 50'000;  // 2.4 MB of embeddings in bf16: rows are read in three runs
  return config;
}

// Conversion has no branches, so every half is tried; weights are loaded by threads that take
// subnormal floats for zero.
TEST(CheckpointWeightsTest, EveryHalfConvertsAlsoWhereSubnormalsAreFlushed) {
  const TempDir dir;
  ASSERT_TRUE(
      WriteRandomCheckpoint(ManyRowsConfig(), {.dtype = FileDType::kF16}, dir.File("m")).ok());
  const std::string path = dir.File("m") + "/model.safetensors";
  auto tensors = ReadAll(path);
  std::vector<uint16_t> halves(50'000 * 24);
  for (size_t i = 0; i < halves.size(); ++i) {
    const auto half = static_cast<uint16_t>(i);
    halves[i] = (half & 0x7c00) == 0x7c00 ? half & 0x83ff : half;  // finite ones
  }
  std::memcpy(tensors["model.embed_tokens.weight"].bytes.data(), halves.data(), halves.size() * 2);
  WriteFile(path, SafetensorsBytes(tensors));
  const auto weights = OpenWeights(dir.File("m"));
  constexpr TensorId kId = {TensorKind::kTokEmbeddings, kNoLayer};
  const FlushSubnormals flush;
  const std::vector<float> floats = ReadWhole(*weights, kId);
  const std::vector<Bf16> bf16s = ReadWhole<Bf16>(*weights, kId);
  const std::vector<Half> copies = ReadWhole<Half>(*weights, kId);
  for (size_t i = 0; i < halves.size(); ++i) {
    ASSERT_EQ(copies[i].bits, halves[i]);
    const float expected = HalfToFloat(halves[i]);
    ASSERT_EQ(std::bit_cast<uint32_t>(floats[i]), std::bit_cast<uint32_t>(expected))
        << std::hex << halves[i];
    ASSERT_EQ(bf16s[i].bits, ToBf16(expected).bits) << std::hex << halves[i];
  }
}

TEST(CheckpointWeightsTest, RunsOfRowsJoinSeamlessly) {
  const TempDir dir;
  for (const FileDType dtype : {FileDType::kBf16, FileDType::kF32}) {
    const std::string path = dir.File(FileDTypeName(dtype));
    ASSERT_TRUE(WriteRandomCheckpoint(ManyRowsConfig(), {.dtype = dtype}, path).ok());
    const auto weights = OpenWeights(path);
    constexpr TensorId kId = {TensorKind::kTokEmbeddings, kNoLayer};
    const std::vector<float> whole = ReadWhole(*weights, kId);
    std::vector<float> joined;
    for (int64_t row = 0; row < 50'000; row += 7777) {
      const int64_t end = std::min<int64_t>(row + 7777, 50'000);
      const std::vector<float> part = Read<float>(*weights, kId, {row, end, 0, 24});
      joined.insert(joined.end(), part.begin(), part.end());
    }
    EXPECT_EQ(joined, whole);
    const std::vector<float> columns = Read<float>(*weights, kId, {0, 50'000, 5, 7});
    for (size_t row = 0; row < 50'000; ++row) {
      ASSERT_EQ(columns[2 * row + 1], whole[24 * row + 6]) << row;
    }
  }
}

TEST(CheckpointWeightsTest, AnElementOfALaterRunIsNamed) {
  const TempDir dir;
  ASSERT_TRUE(WriteRandomCheckpoint(ManyRowsConfig(), {}, dir.File("m")).ok());
  const std::string path = dir.File("m") + "/model.safetensors";
  auto tensors = ReadAll(path);
  const uint16_t inf = 0x7f80;
  std::memcpy(tensors["model.embed_tokens.weight"].bytes.data() + (30'000 * 24 + 7) * 2, &inf, 2);
  WriteFile(path, SafetensorsBytes(tensors));
  std::vector<Bf16> values(50'000 * 24);
  const absl::Status status = OpenWeights(dir.File("m"))
                                  ->ReadSlice({TensorKind::kTokEmbeddings, kNoLayer},
                                              {0, 50'000, 0, 24}, absl::MakeSpan(values));
  EXPECT_THAT(std::string(status.message()), HasSubstr("element [30000, 7] is inf"));
}

TEST(CheckpointWeightsTest, StoragePositionsAreThoseOfTheFiles) {
  for (const int n_shards : {1, 3}) {
    const TinyCheckpoint checkpoint({.n_shards = n_shards});
    const auto weights = OpenWeights(checkpoint.dir());
    std::map<int64_t, TensorId> by_position;
    int64_t n_bytes = 0;
    for (const TensorId id : AllTensors(TinyConfig())) {
      const TensorShape shape = ShapeOf(TinyConfig(), id);
      weights->WillRead(id, WholeTensor(shape));  // only advice: nothing to see
      weights->HaveRead(id, WholeTensor(shape));
      by_position[weights->StoragePosition(id, WholeTensor(shape))] = id;
      const int64_t last = weights->StoragePosition(id, {shape.n_rows - 1, shape.n_rows, 1, 2});
      EXPECT_EQ(last - weights->StoragePosition(id, WholeTensor(shape)),
                2 * ((shape.n_rows - 1) * shape.n_cols + 1));
    }
    ASSERT_EQ(by_position.size(), AllTensors(TinyConfig()).size()) << "positions must differ";
    for (const auto& [position, id] : by_position) {
      EXPECT_EQ(position, n_bytes) << TensorName(id) << ", " << n_shards << " shards";
      n_bytes += WholeTensor(ShapeOf(TinyConfig(), id)).n_elements() * 2;
    }
  }
}

TEST(CheckpointWeightsTest, AFileThatBecomesShorterIsAnError) {
  const TinyCheckpoint checkpoint({});
  const auto weights = OpenWeights(checkpoint.dir());
  const std::string path = checkpoint.dir() + "/model.safetensors";
  std::filesystem::resize_file(path, std::filesystem::file_size(path) / 2);
  int64_t n_failed = 0;
  for (const TensorId id : AllTensors(TinyConfig())) {
    const TensorSlice whole = WholeTensor(ShapeOf(TinyConfig(), id));
    std::vector<float> values(static_cast<size_t>(whole.n_elements()));
    const absl::Status status = weights->ReadSlice(id, whole, absl::MakeSpan(values));
    if (status.ok()) continue;
    ++n_failed;
    EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
    EXPECT_THAT(std::string(status.message()), HasSubstr("the file has become shorter"));
  }
  EXPECT_GT(n_failed, 0);
}

TEST(CheckpointWeightsTest, Bf16IsExactInFloatAndCopied) {
  const TinyCheckpoint checkpoint({});
  const auto weights = WithNorm<uint16_t>(checkpoint, FileDType::kBf16, {0x3f80, 0x3f81, 0x0001});
  EXPECT_THAT(Read<float>(*weights, kNormId, {0, 1, 0, 3}),
              ::testing::ElementsAre(1.0f, 1.0f + 0x1p-7f, 0x1p-133f));
  EXPECT_EQ(Read<Bf16>(*weights, kNormId, {0, 1, 1, 2})[0].bits, 0x3f81);
}

std::string NormError(const WeightSource& weights, bool as_bf16) {
  std::vector<float> floats(TinyConfig().dim);
  std::vector<Bf16> bf16s(TinyConfig().dim);
  const TensorSlice whole = {0, 1, 0, TinyConfig().dim};
  const absl::Status status = as_bf16 ? weights.ReadSlice(kNormId, whole, absl::MakeSpan(bf16s))
                                      : weights.ReadSlice(kNormId, whole, absl::MakeSpan(floats));
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss) << status;
  return std::string(status.message());
}

TEST(CheckpointWeightsTest, ValuesThatAreNotFiniteAreNamed) {
  const TinyCheckpoint checkpoint({});
  constexpr float kInf = std::numeric_limits<float>::infinity();
  auto weights = WithNorm<float>(checkpoint, FileDType::kF32, {1, 2, 3, std::nanf("")});
  EXPECT_THAT(NormError(*weights, false), HasSubstr("tensor norm: element [0, 3] is nan"));
  EXPECT_THAT(NormError(*weights, true), HasSubstr("tensor norm: element [0, 3] is nan"));
  weights = WithNorm<float>(checkpoint, FileDType::kF32, {1, -kInf});
  EXPECT_THAT(NormError(*weights, true), HasSubstr("element [0, 1] is -inf"));
  weights = WithNorm<uint16_t>(checkpoint, FileDType::kF16, {0x7c00});
  EXPECT_THAT(NormError(*weights, false), HasSubstr("element [0, 0] is inf"));
  weights = WithNorm<uint16_t>(checkpoint, FileDType::kBf16, {0, 0, 0x7fc0});
  EXPECT_THAT(NormError(*weights, true), HasSubstr("element [0, 2] is nan"));
}

TEST(CheckpointWeightsTest, AFloatTooLargeForBf16IsNamed) {
  const TinyCheckpoint checkpoint({});
  const auto weights =
      WithNorm<float>(checkpoint, FileDType::kF32, {0, std::numeric_limits<float>::max()});
  EXPECT_THAT(NormError(*weights, true), HasSubstr("too large for bf16"));
  EXPECT_EQ(Read<float>(*weights, kNormId, {0, 1, 1, 2})[0], std::numeric_limits<float>::max());
}

// The largest float16 is 65504; what lies nearer to 65536 overflows.
TEST(CheckpointWeightsTest, ConversionToFloat16RoundsAndNamesWhatIsTooLarge) {
  const TinyCheckpoint checkpoint({});
  auto weights = WithNorm<float>(checkpoint, FileDType::kF32, {65519.0f, 1 + 0x1p-11f, 0x1p-25f});
  const std::vector<Half> halves = ReadWhole<Half>(*weights, kNormId);
  EXPECT_EQ(ToFloat(halves[0]), 65504.0f);
  EXPECT_EQ(ToFloat(halves[1]), 1.0f);
  EXPECT_EQ(ToFloat(halves[2]), 0.0f);
  weights = WithNorm<float>(checkpoint, FileDType::kF32, {0, 65520.0f});
  const TensorShape shape = ShapeOf(weights->config(), kNormId);
  std::vector<Half> dst(shape.n_cols);
  const absl::Status status = weights->ReadSlice(kNormId, WholeTensor(shape), absl::MakeSpan(dst));
  EXPECT_THAT(std::string(status.message()),
              HasSubstr("element [0, 1] is 65520, too large for float16"));
}

TEST(CheckpointWeightsTest, TheElementOfAPermutedTensorIsNamedInOurOrder) {
  const TinyCheckpoint checkpoint({.layout = CheckpointLayout::kMistral, .dtype = FileDType::kF32});
  const std::string path = checkpoint.dir() + "/consolidated.safetensors";
  auto tensors = ReadAll(path);
  const float nan = std::nanf("");
  std::memcpy(tensors["layers.0.attention.wq.weight"].bytes.data() + (9 * 24 + 7) * 4, &nan, 4);
  WriteFile(path, SafetensorsBytes(tensors));
  std::vector<float> row(24);
  const auto weights = OpenWeights(checkpoint.dir());
  const absl::Status status =
      weights->ReadSlice({TensorKind::kWq, 0}, {12, 13, 0, 24}, absl::MakeSpan(row));
  EXPECT_THAT(std::string(status.message()),
              HasSubstr("tensor layers.0.wq: element [12, 7] is nan"));
}

TEST(CheckpointWeightsDeathTest, ASliceOutsideTheTensorIsAProgrammerError) {
  const DummyWeights weights(TinyConfig(), 0);
  std::vector<float> values(24);
  EXPECT_DEATH((void)weights.ReadSlice(kNormId, {0, 2, 0, 12}, absl::MakeSpan(values)),
               "norm rows");
  EXPECT_DEATH((void)weights.ReadSlice(kNormId, {0, 1, 1, 25}, absl::MakeSpan(values)), "columns");
  EXPECT_DEATH((void)weights.ReadSlice(kNormId, {0, 1, 0, 23}, absl::MakeSpan(values)), "24 vs 23");
}

TEST(DummyWeightsTest, SlicesAreRectanglesOfTheWhole) {
  ModelConfig config = TinyConfig();
  config.dim = 301;  // longer than a batch of blocks, and not a multiple of one
  config.hidden_dim = 129;
  const DummyWeights weights(config, 7);
  ExpectSlicesMatch<float>(weights);
  ExpectSlicesMatch<Bf16>(weights);
}

// The values themselves are a contract: checkpoints written by one build, dummy weights of another.
TEST(DummyWeightsTest, AnElementIsItsFormula) {
  ModelConfig config = TinyConfig();
  config.dim = 301;
  const uint64_t seed = 0x123456789abcdef0;
  const DummyWeights weights(config, seed);
  const TensorId id = {TensorKind::kW1, 1};
  const std::vector<float> whole = ReadWhole(weights, id);
  const auto scale = static_cast<float>(std::sqrt(3.0 / 301) / 65535.0);
  for (int64_t row = 0; row < 40; ++row) {
    for (int64_t col = 0; col < 301; ++col) {
      const auto words = Philox4x32(seed, row * CeilDiv(301, 8) + col / 8,
                                    (2u << 8) | static_cast<uint64_t>(TensorKind::kW1));
      const uint32_t word = words[col % 8 / 2];
      const int32_t bits = (col % 2 == 0 ? word : word >> 16) & 0xffff;
      ASSERT_EQ(whole[row * 301 + col], scale * static_cast<float>(2 * bits - 65535));
    }
  }
}

TEST(DummyWeightsTest, EveryPartitionSeesTheSameWeights) {
  const ModelConfig config = TinyConfig();
  const DummyWeights weights(config, 3);
  const TensorId wq = {TensorKind::kWq, 1};
  const TensorId w2 = {TensorKind::kW2, 0};
  for (const int tp_size : {1, 2}) {
    const auto partition = MakePartition(config, tp_size, 2);
    ASSERT_TRUE(partition.ok());
    std::vector<float> rows;
    std::vector<float> columns(config.dim * config.hidden_dim);
    for (int tp_rank = 0; tp_rank < tp_size; ++tp_rank) {
      const RankShape shape = ShapeOfRank(config, *partition, 1, tp_rank);
      const int64_t n_rows = shape.local_n_heads * config.head_dim;
      const std::vector<float> part =
          Read<float>(weights, wq, {tp_rank * n_rows, (tp_rank + 1) * n_rows, 0, config.dim});
      rows.insert(rows.end(), part.begin(), part.end());
      const int64_t first = tp_rank * shape.local_hidden_dim;
      const std::vector<float> cut =
          Read<float>(weights, w2, {0, config.dim, first, first + shape.local_hidden_dim});
      for (int64_t row = 0; row < config.dim; ++row) {
        std::copy_n(cut.begin() + row * shape.local_hidden_dim, shape.local_hidden_dim,
                    columns.begin() + row * config.hidden_dim + first);
      }
    }
    EXPECT_EQ(rows, ReadWhole(weights, wq)) << "tp " << tp_size;
    EXPECT_EQ(columns, ReadWhole(weights, w2)) << "tp " << tp_size;
  }
}

TEST(DummyWeightsTest, TensorsLayersAndSeedsDiffer) {
  const DummyWeights weights(TinyConfig(), 3);
  const std::vector<float> w1 = ReadWhole(weights, {TensorKind::kW1, 0});
  EXPECT_NE(w1, ReadWhole(weights, {TensorKind::kW3, 0}));
  EXPECT_NE(w1, ReadWhole(weights, {TensorKind::kW1, 1}));
  const DummyWeights other(TinyConfig(), 4);
  EXPECT_NE(w1, ReadWhole(other, {TensorKind::kW1, 0}));
  EXPECT_FALSE(weights.fingerprint() == other.fingerprint());
  EXPECT_EQ(weights.fingerprint(), DummyWeights(TinyConfig(), 3).fingerprint());
}

TEST(DummyWeightsTest, MatricesHaveUnitGainAndNormsAreNearOne) {
  ModelConfig config = TinyConfig();
  config.dim = 256;
  config.hidden_dim = 512;
  const DummyWeights weights(config, 11);
  for (const TensorId id : AllTensors(config)) {
    const TensorShape shape = ShapeOf(config, id);
    const std::vector<float> values = ReadWhole(weights, id);
    if (shape.is_vector) {
      for (const float value : values) EXPECT_NEAR(value, 1.0f, 0.1001f);
      continue;
    }
    double sum = 0;
    double squares = 0;
    for (const float value : values) {
      sum += value;
      squares += static_cast<double>(value) * value;
    }
    const double n = static_cast<double>(values.size());
    const double fan_in = id.kind == TensorKind::kTokEmbeddings ? 1.0 : shape.n_cols;
    // The mean has standard deviation std / sqrt(n); the variance of a uniform square is 4/5.
    EXPECT_LT(std::abs(sum / n), 6 / std::sqrt(n * fan_in)) << TensorName(id);
    EXPECT_NEAR(squares / n * fan_in, 1.0, 6 * std::sqrt(0.8 / n)) << TensorName(id);
  }
}

TEST(DummyWeightsTest, ATiedHeadIsTheEmbedding) {
  ModelConfig config = TinyConfig();
  config.tie_word_embeddings = true;
  const DummyWeights weights(config, 1);
  EXPECT_EQ(ReadWhole(weights, {TensorKind::kOutput, kNoLayer}),
            ReadWhole(weights, {TensorKind::kTokEmbeddings, kNoLayer}));
}

TEST(Bf16Test, HalfConversionRoundTripsAndRoundsToNearestEven) {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const auto half = static_cast<uint16_t>(bits);
    const float value = HalfToFloat(half);
    if (std::isnan(value)) {
      EXPECT_TRUE(std::isnan(HalfToFloat(FloatToHalf(value)))) << bits;
      continue;
    }
    ASSERT_EQ(FloatToHalf(value), half) << bits;
    // Halfway to the next half of the same sign: the even one of the two.
    const float next = HalfToFloat(static_cast<uint16_t>(half + 1));
    if ((half & 0x7fff) >= 0x7bff) continue;
    const float middle = value + (next - value) / 2;
    ASSERT_EQ(FloatToHalf(middle), half + (half & 1)) << bits;
    ASSERT_EQ(FloatToHalf(std::nextafter(middle, value)), half) << bits;
    ASSERT_EQ(FloatToHalf(std::nextafter(middle, next)), half + 1) << bits;
  }
  EXPECT_EQ(FloatToHalf(65519.0f), 0x7bff);
  EXPECT_EQ(FloatToHalf(65520.0f), 0x7c00);
  EXPECT_EQ(FloatToHalf(-1e30f), 0xfc00);
}

}  // namespace
}  // namespace bora

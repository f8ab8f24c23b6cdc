// The digest of the bytes that ranks read: the same for every layout, another for every change.
#include "model/checkpoint/weight_digest.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <set>
#include <string>
#include <vector>

#include "base/check.h"
#include "kernels/cpu/cpu_device.h"
#include "model/checkpoint/checkpoint.h"
#include "model/checkpoint/weights_source.h"
#include "model/tools/make_checkpoint.h"
#include "tests/model/temp_dir.h"
#include "worker/weights/host_weights.h"

namespace bora {
namespace {

using ::testing::HasSubstr;

// 4 KV heads for 8 heads, so that 8 tensor ranks hold copies; columns that 2, 4 and 8 divide
// into multiples of 4.
ModelConfig Config(bool tied = false) {
  ModelConfig config;
  config.architecture = "mistral";
  config.dim = 24;
  config.hidden_dim = 64;
  config.n_layers = 4;
  config.n_heads = 8;
  config.n_kv_heads = 4;
  config.head_dim = 8;
  config.vocab_size = 53;
  config.max_position = 128;
  config.rope_theta = 1e6;
  config.norm_eps = 1e-5;
  config.tie_word_embeddings = tied;
  return config;
}

void Make(const std::string& dir, const MakeCheckpointOptions& options, bool tied = false) {
  CHECK_OK(WriteRandomCheckpoint(Config(tied), options, dir));
}

// What the ranks of a layout read, by rank.
std::vector<WeightDigests> Read(const std::string& dir, int tp_size, int pp_size,
                                const Precision& precision = DType::kF32) {
  auto checkpoint = Checkpoint::Open(dir);
  CHECK_OK(checkpoint.status());
  const CheckpointWeights source(*std::move(checkpoint));
  const auto partition = MakePartition(source.config(), tp_size, pp_size);
  CHECK_OK(partition.status());
  CpuDevice device(2);
  std::vector<WeightDigests> ranks;
  for (int rank = 0; rank < tp_size * pp_size; ++rank) {
    const RankShape shape =
        ShapeOfRank(source.config(), *partition, rank / tp_size, rank % tp_size);
    const auto weights = LoadHostWeights(source, shape, precision, device);
    CHECK_OK(weights.status());
    ranks.push_back((*weights)->digests());
  }
  return ranks;
}

DigestLayout LayoutOf(int tp_size, bool tied = false) {
  return {.tp_size = tp_size, .n_kv_heads = Config().n_kv_heads, .tied_head = tied};
}

DigestSum Whole(const std::string& dir, bool tied = false) {
  return ModelDigest(Read(dir, 1, 1), LayoutOf(1, tied));
}

// Flips a bit of the byte at `from_end` bytes before the end of the file.
void FlipBit(const std::string& path, int64_t from_end) {
  std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
  file.seekg(-from_end, std::ios::end);
  const char byte = static_cast<char>(file.get() ^ 1);
  file.seekp(-from_end, std::ios::end);
  file.put(byte);
}

TEST(WeightDigestTest, AllLayoutsAgree) {
  for (const auto layout : {CheckpointLayout::kHuggingFace, CheckpointLayout::kMistral}) {
    for (const bool tied : {false, true}) {
      const TempDir dir;
      Make(dir.File("m"), {.layout = layout, .n_shards = tied ? 1 : 3}, tied);
      const DigestSum want = Whole(dir.File("m"), tied);
      EXPECT_NE(want, DigestSum());
      for (const int tp_size : {1, 2, 4, 8}) {
        for (const int pp_size : {1, 2, 4}) {
          const auto ranks = Read(dir.File("m"), tp_size, pp_size);
          EXPECT_FALSE(FindDigestMismatch(ranks, LayoutOf(tp_size, tied)).has_value())
              << tp_size << " x " << pp_size;
          EXPECT_EQ(ModelDigest(ranks, LayoutOf(tp_size, tied)), want)
              << tp_size << " x " << pp_size << (tied ? " tied" : "");
        }
      }
    }
  }
}

// It is of the bytes as they are stored, whatever becomes of them.
TEST(WeightDigestTest, DoesNotDependOnThePrecisionOrTheShards) {
  const TempDir dir;
  Make(dir.File("m"), {.dtype = FileDType::kF16});
  Make(dir.File("shards"), {.dtype = FileDType::kF16, .n_shards = 4});
  const DigestSum want = Whole(dir.File("m"));
  EXPECT_EQ(Whole(dir.File("shards")), want);
  for (const Precision& precision :
       {Precision(DType::kBf16), Precision(DType::kBf16, WeightFormat::kInt8)}) {
    EXPECT_EQ(ModelDigest(Read(dir.File("m"), 2, 1, precision), LayoutOf(2)), want);
  }
}

TEST(WeightDigestTest, SeesEveryBit) {
  const TempDir dir;
  Make(dir.File("m"), {.dtype = FileDType::kBf16});
  const std::string path = dir.File("m/model.safetensors");
  std::set<std::string> seen = {Whole(dir.File("m")).ToHex()};
  // 79,248 bytes of weights; low bits of bf16, so that all values stay finite.
  int n = 0;
  for (int64_t from_end = 2; from_end < 60'000; from_end += 1498) {
    FlipBit(path, from_end);
    EXPECT_TRUE(seen.insert(Whole(dir.File("m")).ToHex()).second) << from_end;
    ++n;
  }
  EXPECT_GT(n, 39);
}

// A sum is blind to order, so a unit's place is part of its hash.
TEST(WeightDigestTest, SeesWhatHasChangedPlaces) {
  const std::vector<uint8_t> bytes = {1, 2, 3, 4, 5, 6, 7, 8};
  const auto digest = [&](const StoredRow& row) {
    DigestSum sum;
    AddRowDigest(row, bytes, &sum);
    return sum.ToHex();
  };
  const StoredRow row = {.id = {TensorKind::kW2, 1},
                         .row = 5,
                         .col_begin = 4,
                         .n_cols = 4,
                         .unit_cols = 2,
                         .element_bytes = 2};
  std::set<std::string> seen = {digest(row)};
  StoredRow other = row;
  other.row = 6;
  EXPECT_TRUE(seen.insert(digest(other)).second);
  other = row;
  other.col_begin = 6;
  EXPECT_TRUE(seen.insert(digest(other)).second);
  other = row;
  other.id.layer = 2;
  EXPECT_TRUE(seen.insert(digest(other)).second);
  other = row;
  other.id.kind = TensorKind::kWo;
  EXPECT_TRUE(seen.insert(digest(other)).second);
  // The halves of a row add up to the row.
  DigestSum halves;
  StoredRow half = row;
  half.n_cols = 2;
  AddRowDigest(half, absl::MakeConstSpan(bytes).first(4), &halves);
  half.col_begin = 6;
  AddRowDigest(half, absl::MakeConstSpan(bytes).subspan(4), &halves);
  EXPECT_EQ(halves.ToHex(), digest(row));
}

// Each kind of copy: of norms and embeddings by all ranks of a stage, of KV heads by neighbours, of
// a tied table by first and last stage.
TEST(WeightDigestTest, CopiesThatDifferAreFound) {
  const TempDir dir;
  Make(dir.File("m"), {}, /*tied=*/true);
  const DigestLayout layout = LayoutOf(8, /*tied=*/true);
  const auto good = Read(dir.File("m"), 8, 2);
  const auto mismatch_after = [&](int rank, DigestPart part) {
    auto ranks = good;
    ranks[rank][part] += DigestSum{0, 1};
    return FindDigestMismatch(ranks, layout);
  };
  const auto norms = mismatch_after(11, DigestPart::kNorms);
  ASSERT_TRUE(norms.has_value());
  EXPECT_EQ(norms->rank, 11);
  EXPECT_EQ(norms->other_rank, 8);
  EXPECT_EQ(norms->part, DigestPart::kNorms);
  const auto key_value = mismatch_after(5, DigestPart::kKeyValue);
  ASSERT_TRUE(key_value.has_value());
  EXPECT_EQ(key_value->other_rank, 4);
  EXPECT_TRUE(mismatch_after(3, DigestPart::kEmbedding).has_value());
  EXPECT_TRUE(mismatch_after(12, DigestPart::kHead).has_value());   // not the table of stage 0
  EXPECT_FALSE(mismatch_after(2, DigestPart::kOther).has_value());  // nobody has a copy
}

TEST(WeightDigestTest, TheTextDependsOnFingerprintAndBytes) {
  const std::string text = WeightsDigestText("f", {1, 2});
  EXPECT_EQ(text.size(), 32u);
  EXPECT_NE(WeightsDigestText("g", {1, 2}), text);
  EXPECT_NE(WeightsDigestText("f", {1, 3}), text);
}

}  // namespace
}  // namespace bora

#include "worker/weights/rank_weights.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/check.h"
#include "kernels/cpu/cpu_device.h"
#include "model/checkpoint/dummy_weights.h"
#include "tests/worker/tiny_model.h"
#include "worker/cpu/cpu_rank.h"
#include "worker/weights/device_weights.h"
#include "worker/weights/host_weights.h"

namespace bora {
namespace {

using ::testing::HasSubstr;

constexpr uint64_t kSeed = 3;

RankShape TinyShape(int tp_size, int pp_size, int stage, int tp_rank) {
  const absl::StatusOr<Partition> partition = MakePartition(TinyConfig(), tp_size, pp_size);
  CHECK_OK(partition.status());
  return ShapeOfRank(TinyConfig(), *partition, stage, tp_rank);
}

// The made-up weights, and what a loader may meet.
class FakeSource final : public WeightSource {
 public:
  const ModelConfig& config() const override { return weights_.config(); }
  Fingerprint fingerprint() const override { return weights_.fingerprint(); }
  void HaveRead(TensorId, const TensorSlice& slice) const override {
    n_dropped_elements += slice.n_elements();
  }

  TensorId fails{TensorKind::kNorm, 99};  // none
  mutable int64_t n_dropped_elements = 0;

 private:
  absl::Status Read(TensorId id, const TensorSlice& slice, ElementSpan dst,
                    DigestSum* digest) const override {
    if (id == fails) return absl::DataLossError("bad byte");
    return weights_.ReadSlice(id, slice, dst, digest);
  }

  DummyWeights weights_{TinyConfig(), kSeed};
};

float ElementOf(const Weight& weight, int64_t row, int64_t col) {
  const int64_t i = row * weight.n_cols + col;
  if (weight.dtype == DType::kBf16) return ToFloat(static_cast<const Bf16*>(weight.data)[i]);
  if (weight.dtype == DType::kF16) return ToFloat(static_cast<const Half*>(weight.data)[i]);
  return static_cast<const float*>(weight.data)[i];
}
float ElementOf(const PackedWeight& weight, int64_t row, int64_t col) {
  return PackedElement(weight, row, col);
}

bool IsBf16(const Weight& weight) { return weight.dtype == DType::kBf16; }
bool IsBf16(const PackedWeight& weight) { return weight.format == WeightFormat::kBf16; }
bool IsF16(const Weight& weight) { return weight.dtype == DType::kF16; }
bool IsF16(const PackedWeight& weight) { return weight.format == WeightFormat::kF16; }

// Expects rows [row, row + slice.n_rows()) of `weight` to be the slice of the tensor.
template <typename AnyWeight>
void ExpectRows(const AnyWeight& weight, int64_t row, TensorId id, const TensorSlice& slice) {
  ASSERT_EQ(weight.n_cols, slice.n_cols()) << TensorName(id);
  ASSERT_LE(row + slice.n_rows(), weight.n_rows) << TensorName(id);
  std::vector<float> expected(slice.n_elements());
  CHECK_OK(DummyWeights(TinyConfig(), kSeed).ReadSlice(id, slice, absl::MakeSpan(expected)));
  if (IsBf16(weight)) {
    for (float& value : expected) value = RoundToBf16(value);
  }
  if (IsF16(weight)) {
    for (float& value : expected) value = ToFloat(ToHalf(value));
  }
  for (int64_t i = 0; i < slice.n_elements(); ++i) {
    const int64_t n_cols = slice.n_cols();
    ASSERT_EQ(ElementOf(weight, row + i / n_cols, i % n_cols), expected[i])
        << TensorName(id) << " element " << i;
  }
}

void ExpectLayer(const LayerWeights& w, int64_t layer, const RankShape& shape) {
  const int64_t dim = TinyConfig().dim;
  const int64_t q = shape.local_n_heads * TinyConfig().head_dim;
  const int64_t kv = shape.local_n_kv_heads * TinyConfig().head_dim;
  // Of the KV head that the rank's first head attends to: 8 heads attend to 4.
  const int64_t kv_begin = shape.tp_rank * shape.local_n_heads / 2 * TinyConfig().head_dim;
  const int64_t hidden = shape.local_hidden_dim;
  const int64_t tp = shape.tp_rank;
  ExpectRows(w.attention_norm, 0, {TensorKind::kAttentionNorm, layer}, {0, 1, 0, dim});
  ExpectRows(w.wqkv, 0, {TensorKind::kWq, layer}, {tp * q, tp * q + q, 0, dim});
  ExpectRows(w.wqkv, q, {TensorKind::kWk, layer}, {kv_begin, kv_begin + kv, 0, dim});
  ExpectRows(w.wqkv, q + kv, {TensorKind::kWv, layer}, {kv_begin, kv_begin + kv, 0, dim});
  ExpectRows(w.wo, 0, {TensorKind::kWo, layer}, {0, dim, tp * q, tp * q + q});
  ExpectRows(w.ffn_norm, 0, {TensorKind::kFfnNorm, layer}, {0, 1, 0, dim});
  ExpectRows(w.w13, 0, {TensorKind::kW1, layer}, {tp * hidden, tp * hidden + hidden, 0, dim});
  ExpectRows(w.w13, hidden, {TensorKind::kW3, layer}, {tp * hidden, tp * hidden + hidden, 0, dim});
  ExpectRows(w.w2, 0, {TensorKind::kW2, layer}, {0, dim, tp * hidden, tp * hidden + hidden});
}

void ExpectShareOfEveryTensor(DType dtype, int tp_size) {
  for (int rank = 0; rank < 2 * tp_size; ++rank) {
    const RankShape shape = TinyShape(tp_size, 2, rank / tp_size, rank % tp_size);
    CpuDevice device(2);
    const auto loaded = LoadHostWeights(FakeSource(), shape, dtype, device);
    ASSERT_TRUE(loaded.ok()) << loaded.status();
    const RankWeights& weights = **loaded;
    ASSERT_EQ(static_cast<int64_t>(weights.layers().size()), shape.layers.n_layers());
    for (int64_t i = 0; i < shape.layers.n_layers(); ++i) {
      ExpectLayer(weights.layers()[i], shape.layers.begin + i, shape);
    }
    if (shape.has_embedding) {
      EXPECT_EQ(weights.tok_embeddings().dtype, dtype);
      ExpectRows(weights.tok_embeddings(), 0, {TensorKind::kTokEmbeddings}, {0, 257, 0, 64});
    }
    if (!shape.has_head) continue;
    ExpectRows(weights.norm(), 0, {TensorKind::kNorm}, {0, 1, 0, 64});
    ExpectRows(weights.output(), 0, {TensorKind::kOutput},
               {shape.vocab_begin, shape.vocab_end, 0, 64});
  }
}

// With 8 ranks, pairs of them hold copies of a KV head.
TEST(RankWeightsTest, EveryRankHoldsItsShareOfEveryTensor) {
  for (const int tp_size : {1, 2, 4, 8}) ExpectShareOfEveryTensor(DType::kF32, tp_size);
  for (const int tp_size : {1, 4}) ExpectShareOfEveryTensor(DType::kF16, tp_size);
}

// 16 bits an element, and a cache of floats.
TEST(RankWeightsTest, Float16TakesTheMemoryOfBf16) {
  const RankShape shape = TinyShape(1, 1, 0, 0);
  EXPECT_EQ(RankWeightBytes(TinyConfig(), shape, DType::kF16),
            RankWeightBytes(TinyConfig(), shape, DType::kBf16));
  EXPECT_EQ(Precision(DType::kF16).kv_dtype(), DType::kF32);
  EXPECT_EQ(Precision(DType::kF16, WeightFormat::kInt8).kv_dtype(), DType::kF32);
}

// A device's memory that the host can read, which takes what was staged only when it must.
class FakeDeviceMemory final : public DeviceMemory {
 public:
  absl::Status Allocate(int64_t n_bytes, int n_staging, int64_t staging_bytes) override {
    memory_.assign(n_bytes, 0);
    staging_.assign(n_staging, std::vector<uint8_t>(staging_bytes));
    return absl::OkStatus();
  }
  uint8_t* data() const override { return const_cast<uint8_t*>(memory_.data()); }
  uint8_t* staging(int i) override { return staging_.at(i).data(); }
  void Store(int i, uint8_t* to, int64_t n_groups, int64_t group_bytes,
             int64_t stride_bytes) override {
    copies_.push_back([=, this] {
      for (int64_t group = 0; group < n_groups; ++group) {
        std::memcpy(to + group * stride_bytes, staging(i) + group * group_bytes, group_bytes);
      }
    });
  }
  void Wait() override {
    for (const auto& copy : copies_) copy();
    copies_.clear();
  }
  void FreeStaging() override { EXPECT_TRUE(copies_.empty()); }

 private:
  std::vector<uint8_t> memory_;
  std::vector<std::vector<uint8_t>> staging_;
  std::vector<std::function<void()>> copies_;
};

TEST(RankWeightsTest, ADeviceGetsMatricesByRows) {
  for (const int tp_size : {1, 2}) {
    const RankShape shape = TinyShape(tp_size, 1, 0, tp_size - 1);
    CpuDevice device(3);
    const auto loaded = LoadDeviceWeights(FakeSource(), shape, DType::kBf16, device, {},
                                          std::make_unique<FakeDeviceMemory>());
    ASSERT_TRUE(loaded.ok()) << loaded.status();
    const RankWeights& weights = **loaded;
    EXPECT_EQ(weights.bytes(), RankWeightBytes(TinyConfig(), shape, DType::kBf16, kCudaMatrices));
    for (int64_t i = 0; i < shape.layers.n_layers(); ++i) {
      const LayerWeights& layer = weights.layers()[i];
      ExpectLayer(layer, i, shape);
      EXPECT_EQ(layer.wqkv.layout, WeightLayout::kRows);
      EXPECT_EQ(layer.w13.layout, WeightLayout::kGatedRows);
      EXPECT_EQ(layer.wo.n_leaves * tp_size, 4);
    }
    ExpectRows(weights.tok_embeddings(), 0, {TensorKind::kTokEmbeddings}, {0, 257, 0, 64});
    ExpectRows(weights.output(), 0, {TensorKind::kOutput},
               {shape.vocab_begin, shape.vocab_end, 0, 64});
  }
}

// 257 rows over 4 ranks: 65, 65, 65, 62 and three rows of zeros.
TEST(RankWeightsTest, PadsTheHeadWithZeros) {
  const RankShape shape = TinyShape(4, 1, 0, 3);
  CpuDevice device(1);
  const auto weights = LoadHostWeights(FakeSource(), shape, DType::kF32, device);
  ASSERT_TRUE(weights.ok()) << weights.status();
  const PackedWeight& output = (*weights)->output();
  ASSERT_EQ(output.n_rows, 65);
  for (int64_t i = 62 * 64; i < output.n_panels() * kPanelRows * 64; ++i) {
    EXPECT_EQ(PackedElement(output, i / 64, i % 64), 0.0f) << i;
  }
}

TEST(RankWeightsTest, ReportsTheBytesThatWerePlanned) {
  for (const DType dtype : {DType::kF32, DType::kBf16}) {
    const RankShape shape = TinyShape(2, 2, 1, 0);
    CpuDevice device(1);
    const auto weights = LoadHostWeights(FakeSource(), shape, dtype, device);
    ASSERT_TRUE(weights.ok()) << weights.status();
    const CpuRankMemory memory =
        PlanCpuRankMemory(device, TinyConfig(), shape, dtype, TinyLimits());
    EXPECT_EQ((*weights)->bytes(), memory.weight_bytes);
    // 2 layers, keys and values, 2 KV heads of 16, blocks of 4 tokens.
    EXPECT_EQ(memory.kv_bytes_per_block, 2 * 2 * 2 * 16 * 4 * DTypeBytes(dtype));
  }
}

// 8 ranks hold one KV head of 4 each, as 4 do: 4 layers, keys and values, blocks of 4 tokens.
TEST(RankWeightsTest, EachCopyOfAKvHeadTakesItsBytes) {
  for (const int tp_size : {4, 8}) {
    const RankShape shape = TinyShape(tp_size, 1, 0, tp_size - 1);
    EXPECT_EQ(PlanCpuRankMemory(CpuDevice(1), TinyConfig(), shape, DType::kF32, TinyLimits())
                  .kv_bytes_per_block,
              4 * 2 * 1 * 16 * 4 * 4)
        << tp_size << " ranks";
  }
}

TEST(RankWeightsTest, RowParallelMatricesHoldSubtreesOfOneSum) {
  for (const int tp_size : {1, 2, 4, 8}) {
    CpuDevice device(1);
    const auto weights =
        LoadHostWeights(FakeSource(), TinyShape(tp_size, 1, 0, 0), DType::kF32, device);
    ASSERT_TRUE(weights.ok()) << weights.status();
    const LayerWeights& layer = (*weights)->layers()[0];
    EXPECT_EQ(layer.wo.n_leaves * tp_size, 8);
    EXPECT_EQ(layer.w2.n_leaves * tp_size, 8);
    EXPECT_EQ(layer.wqkv.n_leaves, 1);
  }
}

TEST(RankWeightsTest, ProgressAscendsToTheTotal) {
  std::vector<int64_t> done;
  int64_t total = 0;
  LoadOptions options;
  options.progress = [&](int64_t done_bytes, int64_t total_bytes) {
    done.push_back(done_bytes);
    total = total_bytes;
  };
  CpuDevice device(1);
  const auto weights =
      LoadHostWeights(FakeSource(), TinyShape(1, 1, 0, 0), DType::kF32, device, options);
  ASSERT_TRUE(weights.ok()) << weights.status();
  EXPECT_TRUE(std::is_sorted(done.begin(), done.end()));
  EXPECT_EQ(done.back(), total);
  EXPECT_EQ(total, ParameterCount(TinyConfig()) * 4);
}

TEST(RankWeightsTest, DropsWhatWasReadWhenAsked) {
  for (const bool drops : {false, true}) {
    FakeSource source;
    LoadOptions options;
    options.drops_what_was_read = drops;
    CpuDevice device(2);
    const auto weights =
        LoadHostWeights(source, TinyShape(1, 1, 0, 0), DType::kF32, device, options);
    ASSERT_TRUE(weights.ok()) << weights.status();
    EXPECT_EQ(source.n_dropped_elements, drops ? ParameterCount(TinyConfig()) : 0);
  }
}

TEST(RankWeightsTest, StopsWhenCancelled) {
  std::atomic<bool> cancelled = false;
  LoadOptions options;
  options.cancelled = &cancelled;
  options.progress = [&](int64_t, int64_t) { cancelled = true; };
  CpuDevice device(1);
  const auto weights =
      LoadHostWeights(FakeSource(), TinyShape(1, 1, 0, 0), DType::kF32, device, options);
  EXPECT_EQ(weights.status().code(), absl::StatusCode::kCancelled);
}

TEST(RankWeightsTest, ErrorsNameTheTensor) {
  FakeSource source;
  source.fails = {TensorKind::kWk, 2};
  CpuDevice device(2);
  const auto weights = LoadHostWeights(source, TinyShape(2, 1, 0, 1), DType::kBf16, device);
  EXPECT_EQ(weights.status().code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(std::string(weights.status().message()), HasSubstr("layers.2.wk: bad byte"));
}

TEST(RankWeightsTest, RefusesHeadsThatAttentionCannotTake) {
  ModelConfig config = TinyConfig();
  config.head_dim = 258;
  const Partition partition = {1, 1, {{0, 4}}};
  CpuDevice device(1);
  const auto weights = LoadHostWeights(DummyWeights(config, kSeed),
                                       ShapeOfRank(config, partition, 0, 0), DType::kF32, device);
  EXPECT_EQ(weights.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(weights.status().message()), HasSubstr("head_dim: 258"));
}

}  // namespace
}  // namespace bora

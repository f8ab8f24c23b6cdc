#include "model/checkpoint/dummy_weights.h"

#include <algorithm>
#include <cmath>

#include "base/check.h"
#include "base/int_math.h"
#include "base/philox.h"

namespace bora {
namespace {

// A Philox block has 128 bits, which give eight elements of 16 bits. Blocks begin at columns that
// are multiples of eight, so that an element's value does not depend on the slice.
constexpr int64_t kElementsPerBlock = 8;
// Number of blocks that are computed side by side, one per vector lane.
constexpr int kLanes = 16;

// words[w][lane] is word w of Philox4x32(key, counter_low + lane, counter_high). The arithmetic of
// base/philox.h with the lanes in the innermost loops, which the compiler vectorises.
struct PhiloxLanes {
  uint32_t words[4][kLanes];

  void Fill(uint64_t key, uint64_t counter_low, uint64_t counter_high) {
    uint32_t(&c)[4][kLanes] = words;
    for (int lane = 0; lane < kLanes; ++lane) {
      const uint64_t low = counter_low + lane;
      c[0][lane] = static_cast<uint32_t>(low);
      c[1][lane] = static_cast<uint32_t>(low >> 32);
      c[2][lane] = static_cast<uint32_t>(counter_high);
      c[3][lane] = static_cast<uint32_t>(counter_high >> 32);
    }
    uint32_t k0 = static_cast<uint32_t>(key);
    uint32_t k1 = static_cast<uint32_t>(key >> 32);
    for (int round = 0; round < 10; ++round) {
      for (int lane = 0; lane < kLanes; ++lane) {
        const uint64_t p0 = uint64_t{0xD2511F53u} * c[0][lane];
        const uint64_t p1 = uint64_t{0xCD9E8D57u} * c[2][lane];
        c[0][lane] = static_cast<uint32_t>(p1 >> 32) ^ c[1][lane] ^ k0;
        c[1][lane] = static_cast<uint32_t>(p1);
        c[2][lane] = static_cast<uint32_t>(p0 >> 32) ^ c[3][lane] ^ k1;
        c[3][lane] = static_cast<uint32_t>(p0);
      }
      k0 += 0x9E3779B9u;
      k1 += 0xBB67AE85u;
    }
  }
};

// An element is offset + scale * k, where k is odd and in [-65535, 65535]. k is exact in float, so
// the product and the sum round once each and give the same bits on every machine.
struct Distribution {
  float offset = 0;
  float scale = 0;
};

Distribution DistributionOf(const ModelConfig& config, TensorId id) {
  const TensorShape shape = ShapeOf(config, id);
  if (shape.is_vector) return {1.0f, 0.1f / 65535.0f};
  // An embedding lookup sums nothing, so untied embeddings get unit variance and carry as much
  // weight in the residual stream as a layer's output. A tied table is also the head, whose
  // products sum over dim elements.
  const bool is_lookup = id.kind == TensorKind::kTokEmbeddings && !config.tie_word_embeddings;
  const double fan_in = is_lookup ? 1.0 : static_cast<double>(shape.n_cols);
  // A uniform variable in [-a, a] has variance a^2 / 3.
  return {0.0f, static_cast<float>(std::sqrt(3.0 / fan_in) / 65535.0)};
}

void Store(float value, float& dst) { dst = value; }
void Store(float value, Bf16& dst) { dst = ToBf16(value); }
void Store(float value, Half& dst) { dst = ToHalf(value); }

// Stores the kLanes * kElementsPerBlock elements of all lanes in ascending order of columns.
template <typename T>
void StoreLanes(const PhiloxLanes& lanes, const Distribution& distribution, T* dst) {
  for (int word = 0; word < 4; ++word) {
    for (int lane = 0; lane < kLanes; ++lane) {
      const uint32_t bits = lanes.words[word][lane];
      T* const out = dst + lane * kElementsPerBlock + 2 * word;
      for (int half = 0; half < 2; ++half) {
        const auto value = static_cast<int32_t>((bits >> (16 * half)) & 0xffffu);
        const auto odd = static_cast<float>(2 * value - 65535);
        Store(distribution.offset + distribution.scale * odd, out[half]);
      }
    }
  }
}

}  // namespace

DummyWeights::DummyWeights(const ModelConfig& config, uint64_t seed)
    : config_(config), seed_(seed) {
  CHECK_OK(Validate(config));
}

Fingerprint DummyWeights::fingerprint() const {
  Fingerprinter hash;
  hash.AddString("dummy");
  hash.AddNumber(static_cast<int64_t>(seed_));
  AddConfig(config_, hash);
  return hash.Get();
}

absl::Status DummyWeights::Read(TensorId id, const TensorSlice& slice, ElementSpan dst,
                                DigestSum*) const {
  std::visit([&](const auto& elements) { Make(id, slice, elements); }, dst);
  return absl::OkStatus();
}

template <typename T>
void DummyWeights::Make(TensorId id, const TensorSlice& slice, absl::Span<T> dst) const {
  if (id.kind == TensorKind::kOutput && config_.tie_word_embeddings) {
    id = {TensorKind::kTokEmbeddings, kNoLayer};
  }
  const TensorShape shape = ShapeOf(config_, id);
  CheckSlice(id, shape, slice, dst.size());
  constexpr int64_t kBatch = kLanes * kElementsPerBlock;
  const Distribution distribution = DistributionOf(config_, id);
  const int64_t blocks_per_row = CeilDiv(shape.n_cols, kElementsPerBlock);
  const uint64_t counter_high =
      static_cast<uint64_t>(id.layer + 1) << 8 | static_cast<uint64_t>(id.kind);
  PhiloxLanes lanes;
  T batch[kBatch];
  for (int64_t row = slice.row_begin; row < slice.row_end; ++row) {
    T* const dst_row = dst.data() + (row - slice.row_begin) * slice.n_cols();
    for (int64_t col = slice.col_begin; col < slice.col_end;) {
      // The block that holds column `col` may begin before it; the batch then goes through a
      // buffer.
      const int64_t first = col - col % kElementsPerBlock;
      lanes.Fill(seed_, row * blocks_per_row + first / kElementsPerBlock, counter_high);
      const int64_t end = std::min(first + kBatch, slice.col_end);
      T* const out = dst_row + (col - slice.col_begin);
      if (end - col == kBatch) {
        StoreLanes(lanes, distribution, out);
      } else {
        StoreLanes(lanes, distribution, batch);
        std::copy(batch + (col - first), batch + (end - first), out);
      }
      col = end;
    }
  }
}

}  // namespace bora

// What the tests of operations share: deterministic inputs, the comparison with the float64
// reference, and a paged cache with rows in it.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <string>
#include <vector>

#include "base/bf16.h"
#include "base/int_math.h"
#include "base/philox.h"
#include "kernels/cpu/cpu_device.h"
#include "kernels/kv_cache.h"

namespace bora {

// Unit roundoffs: the relative error of one rounding to 24 or 8 significant bits.
inline constexpr double kFloatEps = 0x1p-24;
inline constexpr double kBf16Eps = 0x1p-8;

// Uniform in [-1, 1), a pure function of seed and index.
inline std::vector<float> RandomFloats(int64_t n, uint64_t seed) {
  std::vector<float> values(n);
  for (int64_t i = 0; i < n; ++i) values[i] = 2 * UniformFloat(Philox4x32(seed, i, 0)[0]) - 1;
  return values;
}

inline std::vector<Bf16> ToBf16s(const std::vector<float>& values) {
  std::vector<Bf16> out(values.size());
  for (size_t i = 0; i < values.size(); ++i) out[i] = ToBf16(values[i]);
  return out;
}

inline std::vector<Half> ToHalves(const std::vector<float>& values) {
  std::vector<Half> out(values.size());
  for (size_t i = 0; i < values.size(); ++i) out[i] = ToHalf(values[i]);
  return out;
}

template <typename T>
std::vector<double> ToDoubles(const std::vector<T>& values, bool rounded_to_bf16 = false) {
  std::vector<double> out(values.begin(), values.end());
  for (double& value : out) {
    if (rounded_to_bf16) value = RoundToBf16(static_cast<float>(value));
  }
  return out;
}

// Largest |got - want| / tolerance seen; prints itself, and fails the test above 1.
class WorstRatio {
 public:
  explicit WorstRatio(std::string name) : name_(std::move(name)) {}
  ~WorstRatio() {
    std::printf("worst ratio %s %.3f\n", name_.c_str(), worst_);
    EXPECT_LE(worst_, 1.0) << name_;
  }
  void Add(double got, double want, double tolerance) {
    const double error = std::abs(got - want);
    const double ratio = error == 0 ? 0 : error / tolerance;
    // Written so that NaN counts as the worst.
    if (!(ratio <= worst_)) worst_ = std::isnan(ratio) ? INFINITY : ratio;
  }

 private:
  std::string name_;
  double worst_ = 0;
};

// A cache of one layer full of NaN and the step arrays of rows in it. Blocks of a row are spread
// over the pool in descending order.
class PagedRows {
 public:
  struct Row {
    int32_t position = 0;  // of its first token in this step
    int32_t n_tokens = 0;
  };

  PagedRows(KvCacheShape shape, std::vector<Row> rows) : shape_(shape), rows_(std::move(rows)) {
    for (const Row& row : rows_) {
      max_blocks_ = std::max(max_blocks_, CeilDiv(row.position + row.n_tokens, shape.block_size));
    }
    shape_.n_layers = 1;
    shape_.n_blocks = max_blocks_ * static_cast<int64_t>(rows_.size()) + 1;
    const int64_t bytes = shape_.layer_elements() * DTypeBytes(shape_.dtype);
    keys_.assign(bytes, 0xff);  // NaN in both types
    values_.assign(bytes, 0xff);
    for (int64_t i = 0; i < max_blocks_ * static_cast<int64_t>(rows_.size()); ++i) {
      block_table_.push_back(static_cast<int32_t>(shape_.n_blocks - 1 - i));
    }
    SetRows(rows_);
  }

  // The same sequences, other tokens of them.
  void SetRows(std::vector<Row> rows) {
    rows_ = std::move(rows);
    row_begin_ = {0};
    row_position_.clear();
    positions_.clear();
    token_row_.clear();
    for (size_t r = 0; r < rows_.size(); ++r) {
      row_position_.push_back(rows_[r].position);
      for (int32_t t = 0; t < rows_[r].n_tokens; ++t) {
        positions_.push_back(rows_[r].position + t);
        token_row_.push_back(static_cast<int32_t>(r));
      }
      row_begin_.push_back(static_cast<int32_t>(positions_.size()));
    }
  }

  StepTokensView tokens() const {
    return {.n_rows = static_cast<int64_t>(rows_.size()),
            .n_tokens = static_cast<int64_t>(positions_.size()),
            .row_begin = row_begin_.data(),
            .row_position = row_position_.data(),
            .positions = positions_.data(),
            .token_table_row = token_row_.data(),
            .block_table = block_table_.data(),
            .max_blocks_per_row = max_blocks_};
  }
  KvLayerView cache() { return {keys_.data(), values_.data(), shape_}; }
  const KvCacheShape& shape() const { return shape_; }

  // One stored element as a double.
  double Key(int64_t row, int64_t position, int64_t head, int64_t d) const {
    return Element(keys_,
                   Block(row, position, head) + View().KeyOffset(position % shape_.block_size, d));
  }
  double Value(int64_t row, int64_t position, int64_t head, int64_t d) const {
    return Element(
        values_, Block(row, position, head) + View().ValueOffset(position % shape_.block_size, d));
  }

 private:
  int64_t Block(int64_t row, int64_t position, int64_t head) const {
    const int64_t block_id = block_table_[row * max_blocks_ + position / shape_.block_size];
    return View().BlockOffset(block_id, head);
  }
  KvLayerView View() const { return {nullptr, nullptr, shape_}; }
  double Element(const std::vector<uint8_t>& bytes, int64_t i) const {
    if (shape_.dtype == DType::kBf16) return ToFloat(reinterpret_cast<const Bf16*>(&bytes[0])[i]);
    return reinterpret_cast<const float*>(&bytes[0])[i];
  }

  KvCacheShape shape_;
  std::vector<Row> rows_;
  int64_t max_blocks_ = 0;
  std::vector<uint8_t> keys_, values_;
  std::vector<int32_t> block_table_, row_begin_, row_position_, positions_, token_row_;
};

}  // namespace bora

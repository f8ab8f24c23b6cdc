#include "tests/reference/forward_at.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <string>

namespace bora::reference {
namespace {

// Eight sums side by side: compilers make vectors of them.
constexpr int64_t kLanes = 8;

int64_t RoundUpToLanes(int64_t n) { return (n + kLanes - 1) / kLanes * kLanes; }

// A matrix of n_rows x n_cols, eight rows side by side: [r / 8][column][r % 8], the missing rows 0.
struct Interleaved {
  Interleaved(int64_t n_rows, int64_t n_cols)
      : n_rows(n_rows), n_cols(n_cols), values(RoundUpToLanes(n_rows) * n_cols, 0.0) {}

  double& At(int64_t r, int64_t c) {
    return values[(r / kLanes * n_cols + c) * kLanes + r % kLanes];
  }

  int64_t n_rows;
  int64_t n_cols;
  Vector values;
};

// from: [n_rows, n_cols].
Interleaved Interleave(const double* from, int64_t n_rows, int64_t n_cols) {
  Interleaved to(n_rows, n_cols);
  for (int64_t i = 0; i < n_rows * n_cols; ++i) to.At(i / n_cols, i % n_cols) = from[i];
  return to;
}

// from: [n_cols, n_rows].
Interleaved InterleaveTransposed(const double* from, int64_t n_rows, int64_t n_cols) {
  Interleaved to(n_rows, n_cols);
  for (int64_t i = 0; i < n_rows * n_cols; ++i) to.At(i % n_rows, i / n_rows) = from[i];
  return to;
}

struct Range {
  int64_t begin;
  int64_t end;
};

// y[r] += sum over the columns of x[c] * matrix[r, c] for the rows, which begin at a multiple of 8;
// y has room for a multiple of 8.
void AddDots(const double* x, const Interleaved& matrix, Range rows, Range columns, double* y) {
  for (int64_t r = rows.begin; r < rows.end; r += kLanes) {
    double sums[kLanes] = {};
    const double* element = &matrix.values[r * matrix.n_cols + columns.begin * kLanes];
    for (int64_t c = columns.begin; c < columns.end; ++c, element += kLanes) {
      // Unrolled, the sums stay in registers: 12 GFLOP/s with SSE2 instead of 4.
#pragma GCC unroll 8
      for (int64_t i = 0; i < kLanes; ++i) sums[i] += x[c] * element[i];
    }
    for (int64_t i = 0; i < kLanes; ++i) y[r + i] += sums[i];
  }
}

// x: [m, k], w: rows [row_begin, row_begin + n) of a matrix with k columns -> [m, n].
Vector Product(const Vector& x, int64_t m, const Vector& w, int64_t row_begin, int64_t n) {
  const int64_t k = static_cast<int64_t>(x.size()) / m;
  const Interleaved rows = Interleave(&w[row_begin * k], n, k);
  Vector y(m * n), row(RoundUpToLanes(n));
  for (int64_t i = 0; i < m; ++i) {
    std::fill(row.begin(), row.end(), 0.0);
    AddDots(&x[i * k], rows, {0, n}, {0, k}, row.data());
    std::copy_n(row.begin(), n, y.begin() + i * n);
  }
  return y;
}

Vector Product(const Vector& x, int64_t m, const Vector& w) {
  const int64_t k = static_cast<int64_t>(x.size()) / m;
  return Product(x, m, w, 0, static_cast<int64_t>(w.size()) / k);
}

Vector RowsAt(const Vector& x, int64_t n_cols, const std::vector<int64_t>& positions) {
  Vector rows;
  for (const int64_t p : positions) {
    rows.insert(rows.end(), x.begin() + p * n_cols, x.begin() + (p + 1) * n_cols);
  }
  return rows;
}

void AddTo(Vector* sum, const Vector& addend) {
  for (size_t i = 0; i < sum->size(); ++i) (*sum)[i] += addend[i];
}

// cos and sin of every position's angles, as in Rope.
class Rotations {
 public:
  Rotations(const ModelConfig& config, int64_t n_positions) : half_(config.head_dim / 2) {
    for (int64_t position = 0; position < n_positions; ++position) {
      for (int64_t i = 0; i < half_; ++i) {
        const double exponent = -2.0 * static_cast<double>(i) / static_cast<double>(2 * half_);
        const double angle = static_cast<double>(position) * std::pow(config.rope_theta, exponent);
        cosines_.push_back(std::cos(angle));
        sines_.push_back(std::sin(angle));
      }
    }
  }

  // Rotates every head of the rows at `positions`. x: [n, n_heads * head_dim].
  void Apply(const std::vector<int64_t>& positions, Vector* x) const {
    const int64_t n_cols = static_cast<int64_t>(x->size() / positions.size());
    for (size_t row = 0; row < positions.size(); ++row) {
      const double* const cosines = &cosines_[positions[row] * half_];
      const double* const sines = &sines_[positions[row] * half_];
      double* const end = x->data() + (row + 1) * n_cols;
      for (double* head = end - n_cols; head != end; head += 2 * half_) {
        for (int64_t i = 0; i < half_; ++i) {
          const double first = head[i], second = head[i + half_];
          head[i] = first * cosines[i] - second * sines[i];
          head[i + half_] = second * cosines[i] + first * sines[i];
        }
      }
    }
  }

 private:
  int64_t half_;
  Vector cosines_, sines_;  // [n_positions, half]
};

// Keys and values of one KV head at all positions.
struct Context {
  Interleaved keys;    // [n, head_dim], rotated
  Interleaved values;  // [head_dim, n]
};

// One query head at one position, and its result.
struct Query {
  const double* query;  // [head_dim], rotated
  int64_t n_context;    // positions it sees
  double* to;           // [head_dim], where the result goes
  Vector weights;       // [n_context, rounded up]: scores, then their softmax
  Vector out;           // [head_dim, rounded up]
};

// Positions whose keys or values meet all queries before the next ones do: 256 KB of 128 dimensions
// stay in a second-level cache.
constexpr int64_t kBlock = 256;

// Queries that share the context.
void Attend(const Context& context, std::vector<Query>* queries) {
  const int64_t n = context.keys.n_rows, head_dim = context.keys.n_cols;
  for (Query& q : *queries) {
    q.weights.assign(RoundUpToLanes(q.n_context), 0.0);
    q.out.assign(RoundUpToLanes(head_dim), 0.0);
  }
  for (int64_t begin = 0; begin < n; begin += kBlock) {
    for (Query& q : *queries) {
      AddDots(q.query, context.keys, {begin, std::min(begin + kBlock, q.n_context)}, {0, head_dim},
              q.weights.data());
    }
  }
  const double scale = 1 / std::sqrt(static_cast<double>(head_dim));
  for (Query& q : *queries) {
    const auto end = q.weights.begin() + q.n_context;
    const double max = *std::max_element(q.weights.begin(), end);
    double sum = 0;
    for (auto weight = q.weights.begin(); weight != end; ++weight) {
      *weight = std::exp((*weight - max) * scale);
      sum += *weight;
    }
    for (auto weight = q.weights.begin(); weight != end; ++weight) *weight /= sum;
  }
  for (int64_t begin = 0; begin < n; begin += kBlock) {
    for (Query& q : *queries) {
      AddDots(q.weights.data(), context.values, {0, head_dim},
              {begin, std::min(begin + kBlock, q.n_context)}, q.out.data());
    }
  }
  for (const Query& q : *queries) std::copy_n(q.out.begin(), head_dim, q.to);
}

// Causal attention at `positions` over all rows of x, projections included.
// x: [n_tokens, dim], normed -> [positions, n_heads * head_dim].
Vector AttentionAt(const ModelConfig& config, const Weights& weights, const std::string& layer,
                   const Rotations& rotations, const Vector& x,
                   const std::vector<int64_t>& positions) {
  const int64_t n_tokens = static_cast<int64_t>(x.size()) / config.dim;
  const int64_t n_positions = static_cast<int64_t>(positions.size());
  const int64_t head_dim = config.head_dim, width = config.n_heads * head_dim;
  const int64_t heads_per_group = config.n_heads / config.n_kv_heads;
  // Bounds the weights that are held at once: 16 MB a head at 32,768 positions.
  constexpr int64_t kPositionsAtOnce = 16;
  std::vector<int64_t> all(n_tokens);
  std::iota(all.begin(), all.end(), 0);
  Vector q = Product(RowsAt(x, config.dim, positions), n_positions, weights.at(layer + "wq"));
  rotations.Apply(positions, &q);
  Vector out(n_positions * width, 0.0);
  for (int64_t g = 0; g < config.n_kv_heads; ++g) {
    Vector keys = Product(x, n_tokens, weights.at(layer + "wk"), g * head_dim, head_dim);
    rotations.Apply(all, &keys);
    const Vector values = Product(x, n_tokens, weights.at(layer + "wv"), g * head_dim, head_dim);
    const Context context = {Interleave(keys.data(), n_tokens, head_dim),
                             InterleaveTransposed(values.data(), head_dim, n_tokens)};
    for (int64_t begin = 0; begin < n_positions; begin += kPositionsAtOnce) {
      std::vector<Query> queries;
      for (int64_t i = begin; i < std::min(begin + kPositionsAtOnce, n_positions); ++i) {
        for (int64_t h = g * heads_per_group; h < (g + 1) * heads_per_group; ++h) {
          const int64_t offset = i * width + h * head_dim;
          queries.push_back({&q[offset], positions[i] + 1, &out[offset], {}, {}});
        }
      }
      Attend(context, &queries);
    }
  }
  return out;
}

}  // namespace

Vector ForwardAt(const ModelConfig& config, const Weights& weights,
                 const std::vector<int32_t>& tokens, const std::vector<int64_t>& positions) {
  const int64_t n_tokens = static_cast<int64_t>(tokens.size());
  const Rotations rotations(config, n_tokens);
  std::vector<int64_t> all(n_tokens);
  std::iota(all.begin(), all.end(), 0);
  Vector x = RowsAt(weights.at("tok_embeddings"), config.dim,
                    std::vector<int64_t>(tokens.begin(), tokens.end()));
  for (int64_t i = 0; i < config.n_layers; ++i) {
    const std::string layer = "layers." + std::to_string(i) + ".";
    const std::vector<int64_t>& wanted = i + 1 < config.n_layers ? all : positions;
    const int64_t n_wanted = static_cast<int64_t>(wanted.size());
    const Vector attention =
        AttentionAt(config, weights, layer, rotations,
                    RmsNorm(x, weights.at(layer + "attention_norm"), config.norm_eps), wanted);
    x = RowsAt(x, config.dim, wanted);
    AddTo(&x, Product(attention, n_wanted, weights.at(layer + "wo")));
    const Vector normed = RmsNorm(x, weights.at(layer + "ffn_norm"), config.norm_eps);
    const Vector hidden = SiluMul(Product(normed, n_wanted, weights.at(layer + "w1")),
                                  Product(normed, n_wanted, weights.at(layer + "w3")));
    AddTo(&x, Product(hidden, n_wanted, weights.at(layer + "w2")));
  }
  return Product(RmsNorm(x, weights.at("norm"), config.norm_eps),
                 static_cast<int64_t>(positions.size()), weights.at("output"));
}

}  // namespace bora::reference

#include "tests/reference/reference.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace bora::reference {
namespace {

Vector Slice(const Vector& from, int64_t begin, int64_t n) {
  return Vector(from.begin() + begin, from.begin() + begin + n);
}

void AddTo(Vector* sum, const Vector& addend) {
  for (size_t i = 0; i < sum->size(); ++i) (*sum)[i] += addend[i];
}

// Rotates every head of every token's row. x: [n, n_heads * head_dim].
void RopeRows(const ModelConfig& config, int64_t n_heads, Vector* x) {
  const int64_t n_tokens = static_cast<int64_t>(x->size()) / (n_heads * config.head_dim);
  for (int64_t t = 0; t < n_tokens; ++t) {
    for (int64_t h = 0; h < n_heads; ++h) {
      const int64_t begin = (t * n_heads + h) * config.head_dim;
      const Vector head = Rope(Slice(*x, begin, config.head_dim), t, config.rope_theta);
      std::copy(head.begin(), head.end(), x->begin() + begin);
    }
  }
}

// Causal attention of all heads. q: [n, n_heads * head_dim], k, v: [n, n_kv_heads * head_dim].
Vector CausalAttention(const ModelConfig& config, const Vector& q, const Vector& k,
                       const Vector& v) {
  const int64_t head_dim = config.head_dim;
  const int64_t n_tokens = static_cast<int64_t>(q.size()) / (config.n_heads * head_dim);
  Vector out;
  for (int64_t t = 0; t < n_tokens; ++t) {
    for (int64_t h = 0; h < config.n_heads; ++h) {
      const int64_t g = h / (config.n_heads / config.n_kv_heads);
      Vector keys, values;
      for (int64_t p = 0; p <= t; ++p) {
        const int64_t begin = (p * config.n_kv_heads + g) * head_dim;
        keys.insert(keys.end(), k.begin() + begin, k.begin() + begin + head_dim);
        values.insert(values.end(), v.begin() + begin, v.begin() + begin + head_dim);
      }
      const Vector query = Slice(q, (t * config.n_heads + h) * head_dim, head_dim);
      const Vector head = Attention(query, keys, values);
      out.insert(out.end(), head.begin(), head.end());
    }
  }
  return out;
}

}  // namespace

Vector MatMul(const Vector& x, int64_t m, const Vector& w, int64_t n, Vector* magnitude) {
  const int64_t k = static_cast<int64_t>(w.size()) / n;
  Vector y(m * n, 0.0);
  if (magnitude != nullptr) magnitude->assign(m * n, 0.0);
  for (int64_t i = 0; i < m * n; ++i) {
    for (int64_t j = 0; j < k; ++j) {
      const double product = x[i / n * k + j] * w[i % n * k + j];
      y[i] += product;
      if (magnitude != nullptr) (*magnitude)[i] += std::abs(product);
    }
  }
  return y;
}

Vector RmsNorm(const Vector& x, const Vector& gain, double eps) {
  const size_t dim = gain.size();
  Vector out(x.size());
  for (size_t row = 0; row < x.size(); row += dim) {
    double squares = 0;
    for (size_t i = 0; i < dim; ++i) squares += x[row + i] * x[row + i];
    const double root = std::sqrt(squares / static_cast<double>(dim) + eps);
    for (size_t i = 0; i < dim; ++i) out[row + i] = x[row + i] / root * gain[i];
  }
  return out;
}

Vector Rope(const Vector& head, int64_t position, double theta) {
  const size_t half = head.size() / 2;
  Vector out(head.size());
  for (size_t i = 0; i < half; ++i) {
    const double exponent = -2.0 * static_cast<double>(i) / static_cast<double>(head.size());
    const double angle = static_cast<double>(position) * std::pow(theta, exponent);
    out[i] = head[i] * std::cos(angle) - head[i + half] * std::sin(angle);
    out[i + half] = head[i + half] * std::cos(angle) + head[i] * std::sin(angle);
  }
  return out;
}

Vector Attention(const Vector& query, const Vector& keys, const Vector& values) {
  const int64_t head_dim = static_cast<int64_t>(query.size());
  const int64_t n = static_cast<int64_t>(keys.size()) / head_dim;
  Vector scores = MatMul(query, 1, keys, n);
  for (double& score : scores) score /= std::sqrt(static_cast<double>(head_dim));
  Vector out(head_dim, 0.0);
  const Vector log_probs = LogSoftmax(scores);
  for (int64_t p = 0; p < n; ++p) {
    for (int64_t d = 0; d < head_dim; ++d) {
      out[d] += std::exp(log_probs[p]) * values[p * head_dim + d];
    }
  }
  return out;
}

Vector SiluMul(const Vector& gate, const Vector& up) {
  Vector out(gate.size());
  for (size_t i = 0; i < out.size(); ++i) out[i] = gate[i] / (1.0 + std::exp(-gate[i])) * up[i];
  return out;
}

Vector LogSoftmax(const Vector& logits) {
  const double max = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (double logit : logits) sum += std::exp(logit - max);
  Vector out = logits;
  for (double& value : out) value -= max + std::log(sum);
  return out;
}

Vector Penalize(const Vector& logits, const std::vector<int32_t>& prompt,
                const std::vector<int32_t>& generated, double repetition, double frequency,
                double presence) {
  Vector out = logits;
  for (int32_t id = 0; id < static_cast<int32_t>(logits.size()); ++id) {
    const auto n = std::count(generated.begin(), generated.end(), id);
    if (n > 0 || std::find(prompt.begin(), prompt.end(), id) != prompt.end()) {
      out[id] = out[id] > 0 ? out[id] / repetition : out[id] * repetition;
    }
    if (n > 0) out[id] -= frequency * static_cast<double>(n) + presence;
  }
  return out;
}

Vector SamplingDistribution(const Vector& logits, const SamplingConfig& config) {
  std::vector<int32_t> order;
  for (int32_t id = 0; id < static_cast<int32_t>(logits.size()); ++id) {
    const auto& banned = config.banned_ids;
    if (std::find(banned.begin(), banned.end(), id) == banned.end()) order.push_back(id);
  }
  std::stable_sort(order.begin(), order.end(),
                   [&](int32_t a, int32_t b) { return logits[a] > logits[b]; });
  if (config.temperature == 0) order.resize(1);
  if (config.top_k > 0 && config.top_k < static_cast<int64_t>(order.size())) {
    order.resize(config.top_k);
  }
  Vector probs(logits.size(), 0.0);
  double total = 0;
  for (int32_t id : order) {
    probs[id] = config.temperature == 0
                    ? 1.0
                    : std::exp((logits[id] - logits[order[0]]) / config.temperature);
    total += probs[id];
  }
  double before = 0;  // probability of the tokens ahead of this one, after top_k
  double kept = 0;
  const double best = probs[order[0]];
  for (int32_t id : order) {
    const double prob = probs[id];
    const bool keep = (before == 0 || before / total < config.top_p) && prob >= config.min_p * best;
    if (!keep) probs[id] = 0;
    kept += probs[id];
    before += prob;
  }
  for (double& prob : probs) prob /= kept;
  return probs;
}

Vector Forward(const ModelConfig& config, const Weights& weights,
               const std::vector<int32_t>& tokens) {
  const int64_t n = static_cast<int64_t>(tokens.size());
  Vector x;
  for (int32_t token : tokens) {
    const Vector row = Slice(weights.at("tok_embeddings"), token * config.dim, config.dim);
    x.insert(x.end(), row.begin(), row.end());
  }
  for (int64_t layer = 0; layer < config.n_layers; ++layer) {
    const auto weight = [&](const char* name) -> const Vector& {
      return weights.at("layers." + std::to_string(layer) + "." + name);
    };
    Vector normed = RmsNorm(x, weight("attention_norm"), config.norm_eps);
    Vector q = MatMul(normed, n, weight("wq"), config.n_heads * config.head_dim);
    Vector k = MatMul(normed, n, weight("wk"), config.n_kv_heads * config.head_dim);
    const Vector v = MatMul(normed, n, weight("wv"), config.n_kv_heads * config.head_dim);
    RopeRows(config, config.n_heads, &q);
    RopeRows(config, config.n_kv_heads, &k);
    AddTo(&x, MatMul(CausalAttention(config, q, k, v), n, weight("wo"), config.dim));

    normed = RmsNorm(x, weight("ffn_norm"), config.norm_eps);
    const Vector gate = MatMul(normed, n, weight("w1"), config.hidden_dim);
    const Vector up = MatMul(normed, n, weight("w3"), config.hidden_dim);
    AddTo(&x, MatMul(SiluMul(gate, up), n, weight("w2"), config.dim));
  }
  return MatMul(RmsNorm(x, weights.at("norm"), config.norm_eps), n, weights.at("output"),
                config.vocab_size);
}

}  // namespace bora::reference

// An independent implementation of every operation and of the whole Mistral model in float64, as
// simple as the formulas: no paging, no cache, no batching, no blocking. It shares no code with the
// product. All functions are pure and thread-safe; shapes are the caller's duty.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace bora::reference {

using Vector = std::vector<double>;

// y[m, n] = sum_k x[m, k] w[n, k]. x: [m, k], w: [n, k]; k is w.size() / n. `magnitude`, unless
// null, gets sum_k |x[m, k] w[n, k]|, to which rounding errors are proportional.
Vector MatMul(const Vector& x, int64_t m, const Vector& w, int64_t n, Vector* magnitude = nullptr);

// x / sqrt(mean(x^2) + eps) * gain for each row. x: [n, dim], gain: [dim].
Vector RmsNorm(const Vector& x, const Vector& gain, double eps);

// Rotates a head at a position, half-rotation layout. head: [head_dim].
Vector Rope(const Vector& head, int64_t position, double theta);

// Attention of one query over n positions. query: [head_dim], keys, values: [n, head_dim].
Vector Attention(const Vector& query, const Vector& keys, const Vector& values);

// silu(gate) * up, elementwise.
Vector SiluMul(const Vector& gate, const Vector& up);

// logits - logsumexp(logits).
Vector LogSoftmax(const Vector& logits);

// Logits after penalties: of tokens in either list, l / repetition if l > 0 and l * repetition
// otherwise; then of those generated n times, minus frequency * n + presence.
Vector Penalize(const Vector& logits, const std::vector<int32_t>& prompt,
                const std::vector<int32_t>& generated, double repetition, double frequency,
                double presence);

// What a token is drawn from: softmax(logits / temperature) restricted to the top_k most probable
// (0 = all), renormalised, then to the smallest set that reaches top_p, then to those with at least
// min_p times the best's probability, renormalised. Ties: lower ids first. Banned ids get 0.
// temperature 0: all on the best.
struct SamplingConfig {
  double temperature = 1;
  int64_t top_k = 0;
  double top_p = 1;
  double min_p = 0;
  std::vector<int32_t> banned_ids;
};
Vector SamplingDistribution(const Vector& logits, const SamplingConfig& config);

struct ModelConfig {
  int64_t dim = 0;
  int64_t hidden_dim = 0;
  int64_t n_layers = 0;
  int64_t n_heads = 0;
  int64_t n_kv_heads = 0;
  int64_t head_dim = 0;
  int64_t vocab_size = 0;
  double norm_eps = 1e-5;
  double rope_theta = 1e6;
};

// By canonical name: tok_embeddings, layers.N.{attention_norm, wq, wk, wv, wo, ffn_norm, w1, w2,
// w3}, norm, output; matrices [n_out, n_in], w1 the gate, w3 the up, w2 the down projection. wq and
// wk in the half-rotation layout (as in Hugging Face checkpoints).
using Weights = std::map<std::string, Vector>;

// Logits after every token of a sequence. tokens: [n] -> [n, vocab_size].
Vector Forward(const ModelConfig& config, const Weights& weights,
               const std::vector<int32_t>& tokens);

}  // namespace bora::reference

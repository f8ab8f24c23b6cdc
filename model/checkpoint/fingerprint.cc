#include "model/checkpoint/fingerprint.h"

#include <bit>

#include "absl/strings/str_format.h"
#include "base/bytes.h"

namespace bora {

std::string Fingerprint::ToHex() const { return absl::StrFormat("%016x%016x", high, low); }

void Fingerprinter::Mix(const uint8_t* bytes, size_t n_bytes) {
  // FNV's prime for 128 bits: 2^88 + 0x13b.
  constexpr auto kPrime = (static_cast<unsigned __int128>(1) << 88) | 0x13b;
  for (size_t i = 0; i < n_bytes; ++i) state_ = (state_ ^ bytes[i]) * kPrime;
}

void Fingerprinter::AddNumber(int64_t value) {
  uint8_t bytes[8];
  // Little-endian on every host, so that every host computes the same hash.
  for (int i = 0; i < 8; ++i)
    bytes[i] = static_cast<uint8_t>(static_cast<uint64_t>(value) >> 8 * i);
  Mix(bytes, sizeof(bytes));
}

void Fingerprinter::AddBytes(absl::Span<const uint8_t> bytes) {
  AddNumber(static_cast<int64_t>(bytes.size()));
  Mix(bytes.data(), bytes.size());
}

void Fingerprinter::AddString(absl::string_view text) { AddBytes(BytesOf(text)); }

Fingerprint Fingerprinter::Get() const {
  return {static_cast<uint64_t>(state_ >> 64), static_cast<uint64_t>(state_)};
}

void AddConfig(const ModelConfig& config, Fingerprinter& hash) {
  hash.AddString(config.architecture);
  for (const int64_t value : {config.dim, config.hidden_dim, config.n_layers, config.n_heads,
                              config.n_kv_heads, config.head_dim, config.vocab_size,
                              config.max_position, config.sliding_window.value_or(0)}) {
    hash.AddNumber(value);
  }
  hash.AddNumber(std::bit_cast<int64_t>(config.rope_theta));
  hash.AddNumber(std::bit_cast<int64_t>(config.norm_eps));
  hash.AddNumber(config.tie_word_embeddings ? 1 : 0);
  hash.AddNumber(config.bos_id);
  hash.AddNumber(static_cast<int64_t>(config.eos_ids.size()));
  for (const int32_t id : config.eos_ids) hash.AddNumber(id);
}

}  // namespace bora

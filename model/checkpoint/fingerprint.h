// A 128-bit FNV-1a hash that tells checkpoints apart, so that the ranks of a group never load two
// different ones. Not cryptographic: it guards against mistakes, not against forged checkpoints.
#pragma once

#include <cstdint>
#include <string>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "model/config.h"

namespace bora {

// The value of the hash. A plain value.
struct Fingerprint {
  uint64_t high = 0;
  uint64_t low = 0;
  bool operator==(const Fingerprint&) const = default;
  // 32 lower-case hexadecimal digits.
  std::string ToHex() const;
};

// Computes a Fingerprint from a sequence of values. Texts and byte strings are added with their
// length, so ("ab", "c") and ("a", "bc") give different hashes. Owned by one thread.
class Fingerprinter {
 public:
  void AddBytes(absl::Span<const uint8_t> bytes);
  void AddString(absl::string_view text);
  void AddNumber(int64_t value);
  // The hash of all values added so far.
  Fingerprint Get() const;

 private:
  // Hashes bytes without their number.
  void Mix(const uint8_t* bytes, size_t n_bytes);
  // FNV-1a's offset basis for 128 bits.
  unsigned __int128 state_ =
      (static_cast<unsigned __int128>(0x6c62272e07bb0142u) << 64) | 0x62b821756295c58du;
};

// Adds every field of the config to `hash`, except its notes.
void AddConfig(const ModelConfig& config, Fingerprinter& hash);

}  // namespace bora

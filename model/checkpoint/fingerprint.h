// A 128-bit FNV-1a hash: tells checkpoints apart so that ranks of one group never mix two of them.
// Not cryptographic: it guards against mistakes, not against someone who forges a checkpoint.
#pragma once

#include <cstdint>
#include <string>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "model/config.h"

namespace bora {

struct Fingerprint {
  uint64_t high = 0;
  uint64_t low = 0;
  bool operator==(const Fingerprint&) const = default;
  // 32 lower-case hexadecimal digits.
  std::string ToHex() const;
};

// Owned by one thread. Every Add is length-prefixed, so ("ab", "c") and ("a", "bc") differ.
class Fingerprinter {
 public:
  void AddBytes(absl::Span<const uint8_t> bytes);
  void AddString(absl::string_view text);
  void AddNumber(int64_t value);
  // The hash of everything added so far.
  Fingerprint Get() const;

 private:
  void Mix(const uint8_t* bytes, size_t n_bytes);
  // The FNV-1a offset basis for 128 bits.
  unsigned __int128 state_ =
      (static_cast<unsigned __int128>(0x6c62272e07bb0142u) << 64) | 0x62b821756295c58du;
};

// Adds every number of the config (not its notes).
void AddConfig(const ModelConfig& config, Fingerprinter& hash);

}  // namespace bora

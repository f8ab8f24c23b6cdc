// Amounts as people write them: memory (141GB, 80GiB), rates (400Gb, 25GB/s), counts (64, 8k) and
// lengths of time (5s, 500ms).
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"

namespace bora {

// Bytes of a number and a unit: B, kB, MB, GB, TB (powers of 1000) or KiB, MiB, GiB, TiB (of 1024).
// INVALID_ARGUMENT quotes the text; the amount must be in [1, 2^60].
absl::StatusOr<int64_t> ParseBytes(absl::string_view text);

// Bytes a second, > 0, of a number and a unit: as above with b for bits, B for bytes, and /s behind
// it or not: 400Gb and 50GB/s are the same. INVALID_ARGUMENT quotes the text.
absl::StatusOr<double> ParseBytesPerSecond(absl::string_view text);

// A whole number in decimal digits, with a minus sign or without: no blanks, no plus sign, no other
// base, so that 010 is ten. INVALID_ARGUMENT quotes the text; OUT_OF_RANGE when it is a whole
// number that int64 does not hold.
absl::StatusOr<int64_t> ParseInteger(absl::string_view text);

// A whole number as above, or one with a suffix: k, M and G are powers of 1000, and K, Ki, Mi and
// Gi are powers of 1024, as in other servers' --max-model-len (8k is 8000, 8K is 8192). A suffix
// may follow a fraction: 1.5k.
absl::StatusOr<int64_t> ParseCount(absl::string_view text);

// A length of time, 0 or more: numbers with ns, us, ms, s, m or h, as in 500ms and 1m30s. A number
// without a unit counts `bare_unit`s. INVALID_ARGUMENT quotes the text.
absl::StatusOr<absl::Duration> ParseDuration(absl::string_view text, absl::Duration bare_unit);

// "14.48 GB": powers of 1000, four digits at most.
std::string FormatBytes(int64_t n_bytes);

}  // namespace bora

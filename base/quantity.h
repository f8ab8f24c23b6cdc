// Amounts of memory and rates as people write them: 141GB, 80GiB, 400Gb, 25GB/s.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace bora {

// Bytes of a number and a unit: B, kB, MB, GB, TB (powers of 1000) or KiB, MiB, GiB, TiB (of 1024).
// INVALID_ARGUMENT quotes the text; the amount must be in [1, 2^60].
absl::StatusOr<int64_t> ParseBytes(absl::string_view text);

// Bytes a second, > 0, of a number and a unit: as above with b for bits, B for bytes, and /s behind
// it or not: 400Gb and 50GB/s are the same. INVALID_ARGUMENT quotes the text.
absl::StatusOr<double> ParseBytesPerSecond(absl::string_view text);

// "14.48 GB": powers of 1000, four digits at most.
std::string FormatBytes(int64_t n_bytes);

}  // namespace bora

// Reads and writes amounts as people write them: memory (141GB, 80GiB), rates (400Gb, 25GB/s),
// counts (64, 8k) and lengths of time (5s, 500ms). All functions are pure.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"

namespace bora {

// A number of bytes from a number and a unit: B, kB, MB, GB, TB (powers of 1000) or KiB, MiB, GiB,
// TiB (powers of 1024); a fraction of a byte is dropped. INVALID_ARGUMENT, quoting the text, unless
// the amount is in [1, 2^60].
absl::StatusOr<int64_t> ParseBytes(absl::string_view text);

// A rate in bytes per second from a number and a unit: as for ParseBytes, with b for bits and B for
// bytes, and with or without "/s". 400Gb and 50GB/s are equal. INVALID_ARGUMENT, quoting the text,
// unless the rate is in [1, 2^60].
absl::StatusOr<double> ParseBytesPerSecond(absl::string_view text);

// A whole number in decimal digits with an optional minus sign. No blanks, no plus sign, no other
// base: 010 is ten. INVALID_ARGUMENT, quoting the text, if it is not that; OUT_OF_RANGE if it is a
// whole number outside int64.
absl::StatusOr<int64_t> ParseInteger(absl::string_view text);

// A whole number as for ParseInteger, or one with a suffix: k, M and G are powers of 1000; K, Ki,
// Mi and Gi are powers of 1024. So 8k is 8000 and 8K is 8192, as in other servers' --max-model-len.
// With a suffix the number may have a fraction (1.5k) if the result is whole. INVALID_ARGUMENT,
// quoting the text, if it is not whole or exceeds 2^53.
absl::StatusOr<int64_t> ParseCount(absl::string_view text);

// A length of time >= 0: numbers with ns, us, ms, s, m or h, as in 500ms and 1m30s. A bare number
// counts `bare_unit`s. INVALID_ARGUMENT, quoting the text, if it is not that.
absl::StatusOr<absl::Duration> ParseDuration(absl::string_view text, absl::Duration bare_unit);

// The number of bytes with a unit, in powers of 1000 and at most four digits: "14.48 GB".
std::string FormatBytes(int64_t n_bytes);

}  // namespace bora

// Views of plain values as bytes, for sending over links, for digests and for authentication
// proofs. Nothing is copied or converted. Pure functions; any thread.
#pragma once

#include <cstdint>
#include <type_traits>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace bora {

// Returns the memory of `values` as bytes, in the machine's byte order. The view is valid as long
// as `values` are. REQUIRES: T has no padding bytes if the result is compared or hashed: their
// contents are undefined.
template <typename T>
absl::Span<const uint8_t> BytesOf(absl::Span<T> values) {
  static_assert(std::is_trivially_copyable_v<T>);
  return {reinterpret_cast<const uint8_t*>(values.data()), values.size() * sizeof(T)};
}
// Returns the characters of `text` as bytes, valid as long as the memory of `text` is.
inline absl::Span<const uint8_t> BytesOf(absl::string_view text) {
  return {reinterpret_cast<const uint8_t*>(text.data()), text.size()};
}

// Returns the memory of `values` as writable bytes: writing to them changes `values`.
template <typename T>
absl::Span<uint8_t> MutableBytesOf(absl::Span<T> values) {
  static_assert(std::is_trivially_copyable_v<T>);
  return {reinterpret_cast<uint8_t*>(values.data()), values.size() * sizeof(T)};
}

}  // namespace bora

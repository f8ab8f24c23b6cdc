// The memory of plain values as bytes, for links, digests and proofs.
#pragma once

#include <cstdint>
#include <type_traits>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace bora {

// The bytes of `values`, in the order of the machine. They are valid as long as the values are.
template <typename T>
absl::Span<const uint8_t> BytesOf(absl::Span<T> values) {
  static_assert(std::is_trivially_copyable_v<T>);
  return {reinterpret_cast<const uint8_t*>(values.data()), values.size() * sizeof(T)};
}
inline absl::Span<const uint8_t> BytesOf(absl::string_view text) {
  return {reinterpret_cast<const uint8_t*>(text.data()), text.size()};
}

// The same, to be written to.
template <typename T>
absl::Span<uint8_t> MutableBytesOf(absl::Span<T> values) {
  static_assert(std::is_trivially_copyable_v<T>);
  return {reinterpret_cast<uint8_t*>(values.data()), values.size() * sizeof(T)};
}

}  // namespace bora

// Token ids that several owners read and none changes: the prompt of a request, which all
// sequences of the request share.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <memory>
#include <utility>
#include <vector>

#include "absl/types/span.h"

namespace bora {

// Immutable, except that it can be assigned to. A copy shares the ids and costs a reference.
// Different objects may be used by different threads.
class SharedTokens {
 public:
  SharedTokens() = default;
  SharedTokens(std::vector<int32_t> ids)  // NOLINT: converts like a vector
      : ids_(std::make_shared<const std::vector<int32_t>>(std::move(ids))) {}
  SharedTokens(std::initializer_list<int32_t> ids) : SharedTokens(std::vector<int32_t>(ids)) {}

  absl::Span<const int32_t> span() const {
    return ids_ == nullptr ? absl::Span<const int32_t>() : absl::MakeConstSpan(*ids_);
  }
  operator absl::Span<const int32_t>() const { return span(); }  // NOLINT
  size_t size() const { return span().size(); }
  bool empty() const { return span().empty(); }
  int32_t front() const { return span().front(); }
  const int32_t* begin() const { return span().data(); }
  const int32_t* end() const { return span().data() + size(); }

  friend bool operator==(const SharedTokens& a, const SharedTokens& b) {
    return a.span() == b.span();
  }

 private:
  std::shared_ptr<const std::vector<int32_t>> ids_;  // null: none
};

}  // namespace bora

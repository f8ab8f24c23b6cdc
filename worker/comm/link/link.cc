#include "worker/comm/link/link.h"

#include "absl/strings/str_cat.h"

namespace bora {

void Link::MarkClosed() {
  if (state_ != LinkState::kUp) return;
  state_ = LinkState::kClosed;
  loss_ = absl::UnavailableError(absl::StrCat(name_, " has closed its mesh"));
}

void Link::MarkLost(const std::string& reason) {
  if (state_ != LinkState::kUp) return;
  state_ = LinkState::kLost;
  loss_ = absl::UnavailableError(absl::StrCat(name_, " is gone: ", reason));
}

void Link::MarkBroken(const std::string& reason) {
  if (state_ == LinkState::kLost) return;
  state_ = LinkState::kLost;
  loss_ = absl::InternalError(absl::StrCat(name_, ": ", reason));
}

}  // namespace bora

// Several errors of one kind that are reported together.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"

namespace bora {

// Owned by one thread.
class ErrorList {
 public:
  // Takes the lines of a message that is not OK; an OK status adds nothing. True if it was OK.
  bool Add(const absl::Status& status) {
    if (status.ok()) return true;
    for (const absl::string_view line : absl::StrSplit(status.message(), '\n')) {
      lines_.emplace_back(line);
    }
    return false;
  }
  bool empty() const { return lines_.empty(); }
  const std::vector<std::string>& lines() const { return lines_; }
  // INVALID_ARGUMENT with a line for each error; OK if there are none.
  absl::Status ToStatus() const {
    return empty() ? absl::OkStatus() : absl::InvalidArgumentError(absl::StrJoin(lines_, "\n"));
  }

 private:
  std::vector<std::string> lines_;
};

}  // namespace bora

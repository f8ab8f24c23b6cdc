// Collects several errors of one kind, for example all wrong flags of a command line, so that a
// user sees every error at the first try.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"

namespace bora {

// The errors, one line each, in the order in which they were added. Owned by one thread.
class ErrorList {
 public:
  // Adds each line of the message of a status that is not OK; an OK status adds nothing. Returns
  // status.ok().
  bool Add(const absl::Status& status) {
    if (status.ok()) return true;
    for (const absl::string_view line : absl::StrSplit(status.message(), '\n')) {
      lines_.emplace_back(line);
    }
    return false;
  }
  bool empty() const { return lines_.empty(); }
  const std::vector<std::string>& lines() const { return lines_; }
  // INVALID_ARGUMENT with one line for each error; OK if the list is empty.
  absl::Status ToStatus() const {
    return empty() ? absl::OkStatus() : absl::InvalidArgumentError(absl::StrJoin(lines_, "\n"));
  }

 private:
  std::vector<std::string> lines_;
};

}  // namespace bora

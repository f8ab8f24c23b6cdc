// Collects everything that is wrong with a request into one ApiError, so that a client sees all its
// mistakes at once.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "coordinator/api/api_error.h"

namespace bora {

// Owned by one thread at a time.
class Violations {
 public:
  // Adds a violation by a value that no server would accept. `field` is a dotted path; `value` and
  // `limit` become parts of a sentence: "FIELD is VALUE; it must be LIMIT".
  void AddInvalid(std::string field, std::string value, std::string limit);
  // The same for a value that only a limit of this server forbids. The error has the reason
  // LIMIT_EXCEEDED if all violations are of this sort, else INVALID_FIELD.
  void AddLimit(std::string field, std::string value, std::string limit);

  // Adds a violation (AddInvalid) unless low <= value <= high.
  void CheckRange(absl::string_view field, int64_t value, int64_t low, int64_t high);

  bool empty() const { return violations_.empty(); }
  // Returns the error, with the code INVALID_ARGUMENT, and forgets all violations. The message and
  // the metadata name the first kMaxInMessage violations, the field `violations` has all of them.
  // REQUIRES: !empty().
  ApiError TakeError();

  // How many violations callers should add for the elements of one list; the rest they may count.
  // The trailers of a call must stay below the 8 KiB that clients accept: a request has at most 3
  // lists with 4 violations and a dozen single fields, of 100 bytes each.
  static constexpr int kMaxPerList = 4;
  // How many violations the message and the metadata name.
  static constexpr int kMaxInMessage = 3;

 private:
  struct Entry {
    std::string field;
    std::string value;
    std::string limit;
  };
  std::vector<Entry> violations_;
  bool any_invalid_ = false;  // AddInvalid was called
};

// The shortest decimal text that reads back as the same float, nine digits at most: 1.00000012 does
// not become "1", which would make a message untrue.
std::string FloatText(float value);

// A client's text for an error message or a log line: its first 64 bytes, "..." if there are more,
// and '?' for every byte that is not printable ASCII.
std::string Excerpt(absl::string_view text);

}  // namespace bora

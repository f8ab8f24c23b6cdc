// Collects everything that is wrong with a request into one ApiError.
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
  // `value` and `limit` become part of texts: "FIELD is VALUE; it must be LIMIT".
  void AddInvalid(std::string field, std::string value, std::string limit);
  // The same for a value that only this server's limits forbid: LIMIT_EXCEEDED if all are such.
  void AddLimit(std::string field, std::string value, std::string limit);

  // Adds a violation unless low <= value <= high.
  void CheckRange(absl::string_view field, int64_t value, int64_t low, int64_t high);

  bool empty() const { return violations_.empty(); }
  // INVALID_ARGUMENT. The message and the metadata have the first kMaxInMessage of them, the
  // violations all. Not when empty.
  ApiError TakeError();

  // Violations per list field; the rest is counted. Trailers must stay below the 8 KiB that clients
  // accept: at most 3 lists with 4 and a dozen single fields, of 100 bytes each.
  static constexpr int kMaxPerList = 4;
  static constexpr int kMaxInMessage = 3;

 private:
  struct Entry {
    std::string field;
    std::string value;
    std::string limit;
  };
  std::vector<Entry> violations_;
  bool any_invalid_ = false;
};

// The shortest of up to nine digits that tell every float apart: 1.00000012 is not "1".
std::string FloatText(float value);

// A client's text as part of an error message: at most 64 bytes, printable ASCII, the rest as '?'.
std::string Excerpt(absl::string_view text);

}  // namespace bora

#include "base/check.h"

#include <cstdlib>

#include "absl/strings/str_cat.h"
#include "base/log.h"

namespace bora::internal {

void CheckFailed(const char* file, int line, const std::string& message) {
  LogLastWords(absl::StrCat("CHECK failed: ", message), {{"file", file}, {"line", line}});
  std::abort();
}

}  // namespace bora::internal

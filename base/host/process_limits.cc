#include "base/host/process_limits.h"

#include <sys/resource.h>

#include <algorithm>
#include <filesystem>
#include <iterator>
#include <limits>
#include <system_error>

#include "absl/strings/str_cat.h"
#include "base/log.h"

namespace bora {
namespace {

// Returns the limit as a number of descriptors; the largest int64 for RLIM_INFINITY.
int64_t Count(rlim_t limit) {
  return static_cast<int64_t>(
      std::min<uint64_t>(limit, static_cast<uint64_t>(std::numeric_limits<int64_t>::max())));
}

}  // namespace

DescriptorLimit RaiseDescriptorLimit() {
  rlimit limit = {};
  getrlimit(RLIMIT_NOFILE, &limit);
  rlimit raised = limit;
  raised.rlim_cur = raised.rlim_max;
  if (raised.rlim_cur > limit.rlim_cur && setrlimit(RLIMIT_NOFILE, &raised) == 0) limit = raised;
  return {Count(limit.rlim_cur), Count(limit.rlim_max)};
}

absl::Status CheckDescriptors(const DescriptorLimit& limit, const DescriptorNeeds& needs) {
  if (limit.soft < needs.to_start) {
    return absl::ResourceExhaustedError(absl::StrCat(
        "this process may have ", limit.soft, " open descriptors (ulimit -n) and needs ",
        needs.to_start, " to start, ", needs.at_full_load, " at full load"));
  }
  if (limit.soft < needs.at_full_load) {
    LogWarning("few descriptors: connections will be refused under load (ulimit -n)",
               {{"limit", limit.soft}, {"needed_at_full_load", needs.at_full_load}});
  }
  return absl::OkStatus();
}

int64_t OpenDescriptorCount() {
  std::error_code error;
  const std::filesystem::directory_iterator begin("/proc/self/fd", error);
  // Minus the descriptor that the iterator itself has open.
  return error ? 0 : std::distance(begin, std::filesystem::directory_iterator()) - 1;
}

}  // namespace bora

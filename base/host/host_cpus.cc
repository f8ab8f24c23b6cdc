#include "base/host/host_cpus.h"

#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <limits>
#include <thread>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/host/cgroup.h"

namespace bora {
namespace {

constexpr double kUnlimited = std::numeric_limits<double>::infinity();

// The first two words of a small file; fewer if it has fewer or cannot be read.
std::vector<std::string> Words(const std::string& path) {
  std::ifstream file(path);
  std::vector<std::string> words;
  for (std::string word; words.size() < 2 && file >> word;) words.push_back(word);
  return words;
}

// quota / period in CPUs; infinity if the quota is "max" (version 2) or negative (version 1).
double Ratio(const std::string& quota_us, const std::string& period_us) {
  double quota = 0;
  double period = 0;
  if (!absl::SimpleAtod(quota_us, &quota) || !absl::SimpleAtod(period_us, &period)) {
    return kUnlimited;  // version 2 says "max" for no limit
  }
  return quota > 0 && period > 0 ? quota / period : kUnlimited;  // version 1 says -1 for no limit
}

// The limit of one group, from the files of version 2 or, if those are missing, of version 1.
double QuotaOfGroup(const std::string& dir) {
  const std::vector<std::string> max = Words(absl::StrCat(dir, "/cpu.max"));
  if (max.size() == 2) return Ratio(max[0], max[1]);
  const std::vector<std::string> quota = Words(absl::StrCat(dir, "/cpu.cfs_quota_us"));
  const std::vector<std::string> period = Words(absl::StrCat(dir, "/cpu.cfs_period_us"));
  return quota.empty() || period.empty() ? kUnlimited : Ratio(quota[0], period[0]);
}

}  // namespace

std::vector<int> UsableCpus() {
  // The kernel refuses a set that is smaller than its own mask, and large hosts have more CPUs than
  // cpu_set_t holds (1024).
  constexpr int kMaxCpus = 8192;
  cpu_set_t* const set = CPU_ALLOC(kMaxCpus);
  CHECK(set != nullptr);
  const size_t set_bytes = CPU_ALLOC_SIZE(kMaxCpus);
  CPU_ZERO_S(set_bytes, set);
  std::vector<int> cpus;
  // getpid() is the id of the main thread.
  if (sched_getaffinity(getpid(), set_bytes, set) == 0) {
    for (int cpu = 0; cpu < kMaxCpus; ++cpu) {
      if (CPU_ISSET_S(static_cast<size_t>(cpu), set_bytes, set)) cpus.push_back(cpu);
    }
  }
  CPU_FREE(set);
  // Without a usable mask: as many CPUs as the standard library sees.
  if (cpus.empty()) {
    const int n_cpus = std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
    for (int cpu = 0; cpu < n_cpus; ++cpu) cpus.push_back(cpu);
  }
  return cpus;
}

double CpuQuota(const std::string& root, absl::string_view membership) {
  double least = kUnlimited;
  for (const std::string& dir : CgroupDirs(root, membership, "cpu")) {
    least = std::min(least, QuotaOfGroup(dir));
  }
  return least;
}

double CpuQuota() { return CpuQuota(kCgroupRoot, CgroupMembership()); }

int UsableCpuCount() {
  const double n_cpus = std::min(static_cast<double>(UsableCpus().size()), CpuQuota());
  return std::max(1, static_cast<int>(n_cpus));
}

int ThreadsPerRank(int n_cpus, int n_ranks) {
  CHECK_GE(n_ranks, 1);
  return std::max(1, n_cpus / n_ranks);
}

std::vector<int> CpusOfRank(const std::vector<int>& cpus, int place, int n_threads) {
  CHECK(!cpus.empty());
  std::vector<int> mine;
  mine.reserve(n_threads);
  for (int i = 0; i < n_threads; ++i) {
    mine.push_back(cpus[static_cast<size_t>(place * n_threads + i) % cpus.size()]);
  }
  return mine;
}

}  // namespace bora

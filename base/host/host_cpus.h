// How many CPUs this process may use, and how the ranks on one host share them. Thread-safe.
#pragma once

#include <string>
#include <vector>

#include "absl/strings/string_view.h"

namespace bora {

// Returns the numbers of the CPUs that the process's main thread may run on, ascending; never
// empty. Reads the main thread's mask, so calls from pinned threads see the same CPUs.
std::vector<int> UsableCpus();

// Returns the CPU time per wall time that control groups grant this process, in CPUs (2.5 = two and
// a half); infinity if there is no limit. It is the minimum over the process's group and all groups
// around it, from cpu.max (version 2) or cpu.cfs_quota_us / cpu.cfs_period_us (version 1). `root`
// and `membership` as for CgroupDirs; without parameters: of this process.
double CpuQuota(const std::string& root, absl::string_view membership);
double CpuQuota();

// Returns how many CPUs this process may keep busy: the number of UsableCpus(), or the quota
// rounded down if that is less; at least 1.
int UsableCpuCount();

// Returns the number of compute threads of each of n_ranks ranks that share n_cpus CPUs: n_cpus /
// n_ranks, rounded down, at least 1. REQUIRES: n_ranks >= 1.
int ThreadsPerRank(int n_cpus, int n_ranks);

// Returns the CPU for each of the n_threads threads of one rank: [n_threads]. `place` is the number
// of the rank, from 0, among the ranks that share `cpus`. Ranks take consecutive runs of `cpus`,
// and start again at the front if `cpus` is too short. REQUIRES: `cpus` is not empty.
std::vector<int> CpusOfRank(const std::vector<int>& cpus, int place, int n_threads);

}  // namespace bora

// How much of this machine the process may use, and how the ranks on a host share it.
#pragma once

#include <string>
#include <vector>

#include "absl/strings/string_view.h"

namespace bora {

// The CPUs that the process's main thread may run on, ascending; never empty. Threads that were
// pinned since do not change it.
std::vector<int> UsableCpus();

// CPUs' worth of time that control groups grant this process: the least cpu.max (version 2) or
// cpu.cfs_quota_us (version 1) of its group and that group's ancestors; infinity without a limit.
// `root` and `membership` as for CgroupDirs.
double CpuQuota(const std::string& root, absl::string_view membership);
double CpuQuota();

// CPUs that this process may keep busy: UsableCpus(), or fewer where the quota is less; at least 1.
int UsableCpuCount();

// Threads of each of n_ranks ranks that share n_cpus CPUs: at least 1.
int ThreadsPerRank(int n_cpus, int n_ranks);

// The CPUs for the threads of the place-th of the ranks that share `cpus`: the ranks' threads one
// after another, from the beginning again when there are not enough. [n_threads]
std::vector<int> CpusOfRank(const std::vector<int>& cpus, int place, int n_threads);

}  // namespace bora

// Ranks for tests of the host transport: as threads of this process, or as forked processes.
#pragma once

#include <sys/types.h>

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "worker/comm/listener.h"
#include "worker/comm/mesh.h"

namespace bora {

// How the ranks of a test are linked.
enum class Wiring {
  kSharedMemory,
  kTcp,
  kMixed,  // ranks 0 and 1 share a host, the others are each on their own
};
const char* WiringName(Wiring wiring);

inline constexpr char kTestSecret[] = "0123456789abcdef-test-secret";

// Options that link `my_rank` with all others of `endpoints`, which is indexed by rank.
MeshOptions FullMeshOptions(const std::vector<Endpoint>& endpoints, int my_rank, Wiring wiring);

// One listener per rank in this process.
std::vector<std::unique_ptr<Listener>> NewListeners(int n_ranks);
std::vector<Endpoint> EndpointsOf(const std::vector<std::unique_ptr<Listener>>& listeners);

// Connects n ranks, each as a thread with its own listener, and runs `body` on each; returns when
// all have ended. `adjust` may change a rank's options. Fails the test if a rank cannot connect.
void RunRanks(int n_ranks, Wiring wiring, const std::function<void(Mesh& mesh)>& body,
              const std::function<void(MeshOptions*)>& adjust = nullptr);

// {0, 1, ..., n - 1}.
std::vector<int> AllRanks(int n_ranks);

// Ranks as processes. Construct it before the test starts any thread.
class ForkedRanks {
 public:
  // Each child makes a listener, learns the endpoints of all through the parent, connects and runs
  // `body`; it exits with 0 if that returns OK. Ranks from n_forked on are not forked: the parent
  // connects them itself with Connect(). `adjust` may change a rank's options.
  ForkedRanks(int n_ranks, int n_forked, Wiring wiring,
              const std::function<absl::Status(Mesh& mesh)>& body,
              std::function<void(MeshOptions*)> adjust = nullptr);
  // Kills what still runs.
  ~ForkedRanks();

  // The parent's own rank, n_forked <= rank < n_ranks.
  absl::StatusOr<std::unique_ptr<Mesh>> Connect(int rank);
  pid_t pid(int rank) const { return pids_[static_cast<size_t>(rank)]; }
  // Waits for the child's end; its exit status as of waitpid.
  int Wait(int rank);

 private:
  MeshOptions OptionsOf(const std::vector<Endpoint>& endpoints, int rank) const;
  // What a child does after fork().
  absl::Status RunChild(int my_rank, int n_ranks, int to_parent, int from_parent,
                        const std::function<absl::Status(Mesh& mesh)>& body) const;

  const Wiring wiring_;
  const std::function<void(MeshOptions*)> adjust_;
  std::vector<pid_t> pids_;                           // -1: waited for
  std::vector<std::unique_ptr<Listener>> listeners_;  // of the parent's ranks
  std::vector<Endpoint> endpoints_;
};

}  // namespace bora

#include "tests/worker/comm/comm_test_util.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <numeric>
#include <thread>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/clock.h"
#include "base/status_macros.h"

namespace bora {
namespace {

// An endpoint as one line through a pipe: short enough to be written at once.
void WriteLine(int fd, const std::string& line) {
  const std::string text = line + "\n";
  CHECK_EQ(write(fd, text.data(), text.size()), static_cast<ssize_t>(text.size()));
}

std::string ReadLine(int fd) {
  std::string line;
  char c;
  while (read(fd, &c, 1) == 1 && c != '\n') line += c;
  return line;
}

void WriteEndpoint(int fd, const Endpoint& endpoint) {
  WriteLine(fd, endpoint.host_id);
  WriteLine(fd, endpoint.tcp_address);
  WriteLine(fd, endpoint.unix_name);
}

Endpoint ReadEndpoint(int fd) {
  Endpoint endpoint;
  endpoint.host_id = ReadLine(fd);
  endpoint.tcp_address = ReadLine(fd);
  endpoint.unix_name = ReadLine(fd);
  return endpoint;
}

}  // namespace

const char* WiringName(Wiring wiring) {
  switch (wiring) {
    case Wiring::kSharedMemory:
      return "SharedMemory";
    case Wiring::kTcp:
      return "Tcp";
    case Wiring::kMixed:
      return "Mixed";
  }
  return "";
}

MeshOptions FullMeshOptions(const std::vector<Endpoint>& endpoints, int my_rank, Wiring wiring) {
  MeshOptions options;
  options.epoch = 7;
  options.secret = kTestSecret;
  options.my_rank = my_rank;
  options.deadline = SteadyNow() + absl::Seconds(20);
  options.allow_shared_memory = wiring != Wiring::kTcp;
  for (size_t rank = 0; rank < endpoints.size(); ++rank) {
    RankAddress address = {static_cast<int>(rank), endpoints[rank]};
    if (wiring == Wiring::kMixed && rank >= 2) {
      absl::StrAppend(&address.endpoint.host_id, "/elsewhere-", rank);
    }
    options.ranks.push_back(address);
    if (address.rank != my_rank) options.peers.push_back(address.rank);
  }
  return options;
}

std::vector<std::unique_ptr<Listener>> NewListeners(int n_ranks) {
  std::vector<std::unique_ptr<Listener>> listeners;
  for (int i = 0; i < n_ranks; ++i) {
    absl::StatusOr<std::unique_ptr<Listener>> listener = Listener::Create({});
    CHECK_OK(listener.status());
    listeners.push_back(*std::move(listener));
  }
  return listeners;
}

std::vector<Endpoint> EndpointsOf(const std::vector<std::unique_ptr<Listener>>& listeners) {
  std::vector<Endpoint> endpoints;
  for (const auto& listener : listeners) endpoints.push_back(listener->endpoint());
  return endpoints;
}

void RunRanks(int n_ranks, Wiring wiring, const std::function<void(Mesh& mesh)>& body,
              const std::function<void(MeshOptions*)>& adjust) {
  const std::vector<std::unique_ptr<Listener>> listeners = NewListeners(n_ranks);
  const std::vector<Endpoint> endpoints = EndpointsOf(listeners);
  std::vector<std::thread> threads;
  for (int rank = 0; rank < n_ranks; ++rank) {
    threads.emplace_back([&, rank] {
      MeshOptions options = FullMeshOptions(endpoints, rank, wiring);
      if (adjust) adjust(&options);
      absl::StatusOr<std::unique_ptr<Mesh>> mesh =
          listeners[static_cast<size_t>(rank)]->Connect(options);
      ASSERT_TRUE(mesh.ok()) << mesh.status();
      body(**mesh);
    });
  }
  for (std::thread& thread : threads) thread.join();
}

std::vector<int> AllRanks(int n_ranks) {
  std::vector<int> ranks(static_cast<size_t>(n_ranks));
  std::iota(ranks.begin(), ranks.end(), 0);
  return ranks;
}

MeshOptions ForkedRanks::OptionsOf(const std::vector<Endpoint>& endpoints, int rank) const {
  MeshOptions options = FullMeshOptions(endpoints, rank, wiring_);
  if (adjust_) adjust_(&options);
  return options;
}

absl::Status ForkedRanks::RunChild(int my_rank, int n_ranks, int to_parent, int from_parent,
                                   const std::function<absl::Status(Mesh& mesh)>& body) const {
  ASSIGN_OR_RETURN(const std::unique_ptr<Listener> listener, Listener::Create({}));
  WriteEndpoint(to_parent, listener->endpoint());
  std::vector<Endpoint> endpoints;
  for (int i = 0; i < n_ranks; ++i) endpoints.push_back(ReadEndpoint(from_parent));
  ASSIGN_OR_RETURN(const std::unique_ptr<Mesh> mesh,
                   listener->Connect(OptionsOf(endpoints, my_rank)));
  return body(*mesh);
}

ForkedRanks::ForkedRanks(int n_ranks, int n_forked, Wiring wiring,
                         const std::function<absl::Status(Mesh& mesh)>& body,
                         std::function<void(MeshOptions*)> adjust)
    : wiring_(wiring), adjust_(std::move(adjust)) {
  std::vector<int> to_children;
  std::vector<int> from_children;
  for (int rank = 0; rank < n_forked; ++rank) {
    int up[2];
    int down[2];
    CHECK(pipe(up) == 0 && pipe(down) == 0);
    const pid_t pid = fork();
    CHECK_GE(pid, 0);
    if (pid == 0) {
      const absl::Status status = RunChild(rank, n_ranks, up[1], down[0], body);
      if (!status.ok()) fprintf(stderr, "rank %d: %s\n", rank, status.ToString().c_str());
      // Not exit(): the test framework's state belongs to the parent.
      _exit(status.ok() ? 0 : 1);
    }
    close(up[1]);
    close(down[0]);
    from_children.push_back(up[0]);
    to_children.push_back(down[1]);
    pids_.push_back(pid);
  }
  for (const int fd : from_children) endpoints_.push_back(ReadEndpoint(fd));
  listeners_ = NewListeners(n_ranks - n_forked);
  for (const auto& listener : listeners_) endpoints_.push_back(listener->endpoint());
  for (const int fd : to_children) {
    for (const Endpoint& endpoint : endpoints_) WriteEndpoint(fd, endpoint);
    close(fd);
  }
  for (const int fd : from_children) close(fd);
}

ForkedRanks::~ForkedRanks() {
  for (size_t rank = 0; rank < pids_.size(); ++rank) {
    if (pids_[rank] < 0) continue;
    kill(pids_[rank], SIGKILL);
    Wait(static_cast<int>(rank));
  }
}

absl::StatusOr<std::unique_ptr<Mesh>> ForkedRanks::Connect(int rank) {
  Listener& listener = *listeners_[static_cast<size_t>(rank) - pids_.size()];
  return listener.Connect(OptionsOf(endpoints_, rank));
}

int ForkedRanks::Wait(int rank) {
  int status = 0;
  pid_t& pid = pids_[static_cast<size_t>(rank)];
  CHECK_EQ(waitpid(pid, &status, 0), pid);
  pid = -1;
  return status;
}

}  // namespace bora

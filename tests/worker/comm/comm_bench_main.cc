// bora-bench-comm: the host transport's operations between processes, medians.
//
// Prints "figure NAME VALUE UNIT". host_allreduce_SIZE_us, and of the largest size its bus
// bandwidth: 2 (n - 1) / n times the bytes, what a ring would move over each link.
// host_send_SIZE_us is half a round trip of one message. Without a suffix: two ranks, shared
// memory, spinning up to 50 us. Suffixes: _4r four ranks, _tcp over loopback, _sleep without
// spinning. Run it on idle CPUs, at least one for each rank; otherwise only the _sleep figures mean
// anything.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/status_macros.h"
#include "tests/worker/comm/comm_test_util.h"
#include "worker/comm/mesh.h"

namespace bora {
namespace {

struct BenchSize {
  const char* name;
  int64_t n_bytes;
  int n_rounds;
};
constexpr BenchSize kSizes[] = {
    {"8k", 8 << 10, 20000}, {"64k", 64 << 10, 5000}, {"1m", 1 << 20, 1000}};

double MedianUs(std::vector<double> samples_us) {
  const auto middle = samples_us.begin() + static_cast<std::ptrdiff_t>(samples_us.size() / 2);
  std::nth_element(samples_us.begin(), middle, samples_us.end());
  return *middle;
}

// bus_share: bytes that each link moves, for each byte of the data.
void PrintTimes(const char* operation, const BenchSize& size, const std::string& suffix,
                double median_us, double bus_share) {
  // What a tensor group of two on one host may take for a token of a 2,048-wide model.
  const bool has_limit =
      std::string(operation) == "allreduce" && std::string(size.name) == "8k" && suffix.empty();
  printf("figure host_%s_%s%s_us %.2f us", operation, size.name, suffix.c_str(), median_us);
  if (has_limit) printf(" limit 10 ratio %.2f", 10 / median_us);
  printf("\n");
  if (size.n_bytes >= 1 << 20) {
    printf("figure host_%s_%s%s_bandwidth %.2f GB/s\n", operation, size.name, suffix.c_str(),
           static_cast<double>(size.n_bytes) * bus_share / median_us / 1e3);
  }
  fflush(stdout);
}

// Checks the sum first, then times it; rank 0 prints.
absl::Status BenchAllReduce(Mesh& mesh, int n_ranks, const std::string& suffix) {
  using Clock = std::chrono::steady_clock;
  const std::vector<int> group = AllRanks(n_ranks);
  for (const BenchSize& size : kSizes) {
    std::vector<float> data(static_cast<size_t>(size.n_bytes) / sizeof(float), 1.0f);
    RETURN_IF_ERROR(mesh.AllReduceSum(group, absl::MakeSpan(data)));
    for (const float value : data) CHECK_EQ(value, static_cast<float>(n_ranks));
    // Zeros stay zeros, however often they are summed.
    std::fill(data.begin(), data.end(), 0.0f);
    std::vector<double> samples_us;
    // The first tenth warms up caches and TCP windows.
    for (int round = -size.n_rounds / 10; round < size.n_rounds; ++round) {
      const Clock::time_point start = Clock::now();
      RETURN_IF_ERROR(mesh.AllReduceSum(group, absl::MakeSpan(data)));
      const std::chrono::duration<double, std::micro> elapsed = Clock::now() - start;
      if (round >= 0) samples_us.push_back(elapsed.count());
    }
    if (mesh.my_rank() == 0) {
      PrintTimes("allreduce", size, suffix, MedianUs(std::move(samples_us)),
                 2.0 * (n_ranks - 1) / n_ranks);
    }
  }
  return absl::OkStatus();
}

// Between ranks 0 and 1; the message must come back as it went.
absl::Status BenchSend(Mesh& mesh, const std::string& suffix) {
  using Clock = std::chrono::steady_clock;
  if (mesh.my_rank() > 1) return mesh.Barrier(AllRanks(4));
  const int peer = 1 - mesh.my_rank();
  for (const BenchSize& size : kSizes) {
    std::vector<uint8_t> message(size.n_bytes, mesh.my_rank() == 0 ? 42 : 0);
    std::vector<double> samples_us;
    for (int round = -size.n_rounds / 10; round < size.n_rounds; ++round) {
      const Clock::time_point start = Clock::now();
      if (mesh.my_rank() == 0) RETURN_IF_ERROR(mesh.Send(peer, message));
      RETURN_IF_ERROR(mesh.Recv(peer, absl::MakeSpan(message)));
      if (mesh.my_rank() == 1) RETURN_IF_ERROR(mesh.Send(peer, message));
      const std::chrono::duration<double, std::micro> elapsed = Clock::now() - start;
      if (round >= 0) samples_us.push_back(elapsed.count() / 2);
    }
    for (const uint8_t byte : message) CHECK_EQ(byte, 42);
    if (mesh.my_rank() == 0) {
      PrintTimes("send", size, suffix, MedianUs(std::move(samples_us)), 1);
    }
  }
  return suffix.find("_4r") == std::string::npos ? absl::OkStatus() : mesh.Barrier(AllRanks(4));
}

int Main() {
  bool ok = true;
  for (const int n_ranks : {2, 4}) {
    for (const Wiring wiring : {Wiring::kSharedMemory, Wiring::kTcp}) {
      for (const int spin_us : {50, 0}) {
        const std::string suffix =
            absl::StrCat(n_ranks == 2 ? "" : absl::StrCat("_", n_ranks, "r"),
                         wiring == Wiring::kTcp ? "_tcp" : "", spin_us == 0 ? "_sleep" : "");
        ForkedRanks ranks(
            n_ranks, n_ranks, wiring,
            [&](Mesh& mesh) -> absl::Status {
              RETURN_IF_ERROR(BenchAllReduce(mesh, n_ranks, suffix));
              return BenchSend(mesh, suffix);
            },
            [&](MeshOptions* options) { options->spin_us = spin_us; });
        for (int rank = 0; rank < n_ranks; ++rank) ok = ranks.Wait(rank) == 0 && ok;
      }
    }
  }
  return ok ? 0 : 1;
}

}  // namespace
}  // namespace bora

int main() { return bora::Main(); }

// bora-bench-nccl: what ranks on GPUs exchange, one process and GPU a rank:
//   figure NAME VALUE UNIT
// nccl_allreduce_SIZE_us is NCCL's sum, sum_SIZE_us the one in a fixed order (CudaCollectives),
// both as part of a graph of 16, as decoding has them; nccl_send_SIZE_us half a round trip. Of each
// the bandwidth, too: for sums 2 (n - 1) / n times the bytes, as nccl-tests counts it.
//   bora-bench-nccl [MAX_BYTES]
// Every operation is checked first, with numbers whose sums are exact.
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/clock.h"
#include "base/status_macros.h"
#include "kernels/cuda/runtime/cuda_runtime.h"
#include "tests/cuda/test_nccl.h"
#include "tests/worker/comm/comm_test_util.h"
#include "worker/cuda/cuda_collectives.h"
#include "worker/cuda/cuda_links.h"

namespace bora {
namespace {

constexpr int kGraphOperations = 16;
constexpr int kRounds = 30;

// Where the program runs on the CPU the one GPU is everybody's.
int OrdinalOf(int rank, int n_gpus) { return rank % n_gpus; }

// Counted in a child: a process that has used CUDA must not fork.
int CountGpus() {
  const pid_t pid = fork();
  if (pid == 0) {
    const auto devices = ListCudaDevices();
    _exit(devices.ok() ? static_cast<int>(devices->size()) : 0);
  }
  int status = 0;
  CHECK_EQ(waitpid(pid, &status, 0), pid);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 0;
}

std::string SizeName(int64_t n_bytes) {
  return n_bytes < 1 << 20 ? absl::StrCat(n_bytes >> 10, "k") : absl::StrCat(n_bytes >> 20, "m");
}

class RankBench {
 public:
  RankBench(Mesh* mesh, int n_ranks, int64_t max_bytes)
      : mesh_(mesh), n_ranks_(n_ranks), max_bytes_(max_bytes) {}

  absl::Status Run(int ordinal) {
    ASSIGN_OR_RETURN(const CudaDeviceInfo info, OpenCudaDevice(ordinal));
    ASSIGN_OR_RETURN(const auto library, OpenTestNccl());
    ASSIGN_OR_RETURN(stream_, CudaStream::Create());
    CudaDevice device(stream_.get(), info.limits);
    const RankPlace place = {.tp_rank = mesh_->my_rank(), .tp_size = n_ranks_};
    ASSIGN_OR_RETURN(CudaLinks links, ConnectCudaLinks(*library, place, mesh_->epoch(), mesh_,
                                                       stream_, SteadyNow() + absl::Seconds(60)));
    const int64_t max_floats = max_bytes_ / static_cast<int64_t>(sizeof(float));
    ASSIGN_OR_RETURN(
        const CudaBuffer scratch,
        CudaBuffer::Allocate(CudaCollectives::ScratchBytes(n_ranks_, max_floats), "sums"));
    ASSIGN_OR_RETURN(data_, CudaBuffer::Allocate(max_bytes_, "data"));
    CudaCollectives fixed(&device, links.tensor.get(), place, true, scratch.data());
    CudaCollectives ncclsum(&device, links.tensor.get(), place, false, scratch.data());
    for (int64_t n_bytes = 8 << 10; n_bytes <= max_bytes_; n_bytes *= 8) {
      const absl::Span<float> data = absl::MakeSpan(reinterpret_cast<float*>(data_.data()),
                                                    n_bytes / static_cast<int64_t>(sizeof(float)));
      const double share = 2.0 * (n_ranks_ - 1) / n_ranks_;
      RETURN_IF_ERROR(CheckSum(data, fixed));
      RETURN_IF_ERROR(CheckSum(data, ncclsum));
      RETURN_IF_ERROR(Time("sum", n_bytes, share, [&] { return fixed.AllReduceSum(data); }));
      RETURN_IF_ERROR(
          Time("nccl_allreduce", n_bytes, share, [&] { return ncclsum.AllReduceSum(data); }));
      RETURN_IF_ERROR(Time("nccl_send", n_bytes, 1, [&]() -> absl::Status {
        // Back and forth between ranks 0 and 1, half as often.
        NcclCommunicator& tensor = *links.tensor;
        if (tensor.rank() > 1) return absl::OkStatus();
        is_forth_ = !is_forth_;
        const int peer = 1 - tensor.rank();
        return is_forth_ == (tensor.rank() == 0)
                   ? tensor.Send(stream_.get(), peer, data_.data(), n_bytes)
                   : tensor.Recv(stream_.get(), peer, data_.data(), n_bytes);
      }));
    }
    RETURN_IF_ERROR(mesh_->Barrier(AllRanks(n_ranks_)));
    links.Abort();
    return absl::OkStatus();
  }

 private:
  // Rank r has r + 1 + i % 8 in element i.
  absl::Status CheckSum(absl::Span<float> data, CudaCollectives& collectives) {
    std::vector<float> host(data.size());
    for (size_t i = 0; i < host.size(); ++i)
      host[i] = static_cast<float>(mesh_->my_rank() + 1 + i % 8);
    const int64_t n_bytes = static_cast<int64_t>(host.size() * sizeof(float));
    CopyToDevice(nullptr, data.data(), host.data(), n_bytes);
    RETURN_IF_ERROR(collectives.AllReduceSum(data));
    stream_.Synchronize();
    CopyToHost(nullptr, host.data(), data.data(), n_bytes);
    for (size_t i = 0; i < host.size(); ++i) {
      const float want = static_cast<float>(n_ranks_ * (n_ranks_ + 1) / 2 + n_ranks_ * (i % 8));
      if (host[i] == want) continue;
      return absl::InternalError(absl::StrCat("sum of ", n_bytes, " bytes: element ", i, " is ",
                                              host[i], ", want ", want));
    }
    // Zeros stay zeros, however often they are summed.
    FillDevice(stream_.get(), data.data(), 0, n_bytes);
    stream_.Synchronize();  // what comes next may be on another stream
    return absl::OkStatus();
  }

  absl::Status Time(const char* name, int64_t n_bytes, double bus_share,
                    absl::FunctionRef<absl::Status()> operation) {
    absl::Status queued;
    ASSIGN_OR_RETURN(const CudaGraph graph, CudaGraph::Capture(stream_, [&] {
                       for (int i = 0; i < kGraphOperations && queued.ok(); ++i)
                         queued = operation();
                     }));
    RETURN_IF_ERROR(queued);
    std::vector<double> samples_us;
    for (int round = -2; round < kRounds; ++round) {
      RETURN_IF_ERROR(mesh_->Barrier(AllRanks(n_ranks_)));
      const auto begin = std::chrono::steady_clock::now();
      graph.Launch(stream_);
      stream_.Synchronize();
      const std::chrono::duration<double, std::micro> took =
          std::chrono::steady_clock::now() - begin;
      if (round >= 0) samples_us.push_back(took.count() / kGraphOperations);
    }
    if (mesh_->my_rank() != 0) return absl::OkStatus();
    std::nth_element(samples_us.begin(), samples_us.begin() + kRounds / 2, samples_us.end());
    const double us = samples_us[kRounds / 2];
    const std::string size = SizeName(n_bytes);
    std::printf("figure %s_%s_us_%dr %.2f us\n", name, size.c_str(), n_ranks_, us);
    std::printf("figure %s_%s_bandwidth_%dr %.2f GB/s\n", name, size.c_str(), n_ranks_,
                static_cast<double>(n_bytes) * bus_share / us / 1e3);
    std::fflush(stdout);
    return absl::OkStatus();
  }

  Mesh* const mesh_;
  const int n_ranks_;
  const int64_t max_bytes_;
  CudaStream stream_;
  CudaBuffer data_;
  bool is_forth_ = false;
};

int Main(int64_t max_bytes) {
  const int n_gpus = CountGpus();
#ifdef BORA_FAKE_NCCL
  const std::vector<int> sizes = {2, 4};
#else
  std::vector<int> sizes;
  for (const int n_ranks : {2, 4, 8}) {
    if (n_ranks <= n_gpus) sizes.push_back(n_ranks);
  }
#endif
  if (sizes.empty()) {
    std::printf("skipped: %d GPUs, groups need two\n", n_gpus);
    return 0;
  }
  bool ok = true;
  for (const int n_ranks : sizes) {
    ForkedRanks ranks(n_ranks, n_ranks, Wiring::kSharedMemory, [&](Mesh& mesh) {
      return RankBench(&mesh, n_ranks, max_bytes).Run(OrdinalOf(mesh.my_rank(), n_gpus));
    });
    for (int rank = 0; rank < n_ranks; ++rank) ok = ranks.Wait(rank) == 0 && ok;
  }
  return ok ? 0 : 1;
}

}  // namespace
}  // namespace bora

int main(int argc, char** argv) {
  return bora::Main(argc > 1 ? std::atoll(argv[1]) : int64_t{256} << 20);
}

#include "worker/cuda/cuda_rank_loader.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/time.h"
#include "base/clock.h"
#include "base/host/host_cpus.h"
#include "base/log.h"
#include "base/number_formats.h"
#include "base/status_macros.h"
#include "kernels/cpu/cpu_device.h"
#include "kernels/cuda/runtime/cuda_runtime.h"
#include "kernels/cuda/runtime/load_kernels.h"
#include "kernels/cuda/runtime/matrix_library.h"
#include "worker/cuda/cuda_rank.h"
#include "worker/cuda/cuda_rank_memory.h"
#include "worker/cuda/cuda_weight_memory.h"
#include "worker/cuda/nccl_environment.h"
#include "worker/weights/device_weights.h"
#include "worker/weights/host_memory.h"

namespace bora {
namespace {

// Most threads that read a checkpoint. Each copies 2-4 GB/s from the page cache to pinned memory.
constexpr int kMaxLoadThreads = 16;
// GPU memory in bytes that is reserved for what the driver takes besides planned buffers: recorded
// graphs and the code of kernels, which it loads when they first run.
constexpr int64_t kDriverBytes = int64_t{512} << 20;
// GPU memory in bytes that is reserved for NCCL's buffers in a group: about 6 MiB per channel and
// direction (4 MiB of them for its Simple protocol), with up to 32 channels in a tensor group of 8;
// an edge of the pipeline has two channels.
constexpr int64_t kNcclBytes = int64_t{512} << 20;

// One line about a GPU, for people.
std::string Describe(const CudaDeviceInfo& info) {
  return absl::StrCat("cuda:", info.ordinal, ": ", info.name, ", compute capability ", info.major,
                      ".", info.minor, ", ", info.limits.n_multiprocessors, " multiprocessors, ",
                      info.memory_bytes >> 20, " MiB");
}

// Owned by the rank thread, except DeviceName and CollectivesName.
class CudaRankLoader final : public RankLoader {
 public:
  CudaRankLoader(const CudaLoaderOptions& options, const CudaDeviceInfo& info)
      : options_(options), info_(info), nccl_(NcclLibrary::Open()) {}

  std::string DeviceName() const override {
    return absl::StrCat("cuda:", info_.ordinal, " (", info_.name, ", ",
                        options_.deterministic ? "deterministic" : "with cuBLASLt", ")");
  }

  std::string CollectivesName() const override {
    return nccl_.ok() ? absl::StrCat("NCCL ", (*nccl_)->version_text()) : "none";
  }

  bool SumsOnHost() const override { return false; }
  void UseAddress(absl::string_view address) override { PrepareNcclEnvironment(address); }
  absl::StatusOr<LoadedRank> Load(const LoadModel& load, const LoadOptions& options) override;
  // Does nothing: ranks do not share a GPU.
  void ShareHost(int, int) override {}

 private:
  // Opens the GPU for the calling thread, which must be the rank thread, if it is not open yet.
  absl::Status Open();
  // Prepares cuBLASLt, if it is used, for all products of a step.
  absl::Status PrepareLibrary(const RankWeights& weights, const LoadModel& load);
  // Returns how many KV blocks fit into budget_bytes beside weights and working memory.
  // RESOURCE_EXHAUSTED if they do not hold one sequence of max_model_len tokens.
  absl::StatusOr<int64_t> CountBlocks(const RankWeights& weights, const LoadModel& load,
                                      int64_t budget_bytes) const;

  const CudaLoaderOptions options_;
  const CudaDeviceInfo info_;
  const absl::StatusOr<std::unique_ptr<NcclLibrary>> nccl_;  // an error if NCCL is not usable
  CudaStream stream_;
  std::optional<CudaDevice> device_;        // set by Open
  std::unique_ptr<MatrixLibrary> library_;  // null if deterministic
};

// MakeCudaRankLoader opened the GPU on another thread, and CUDA's current device is per thread, so
// the rank thread opens it again at its first Load.
absl::Status CudaRankLoader::Open() {
  if (device_.has_value()) return absl::OkStatus();
  RETURN_IF_ERROR(OpenCudaDevice(options_.ordinal).status());
  ASSIGN_OR_RETURN(stream_, CudaStream::Create());
  if (!options_.deterministic) {
    ASSIGN_OR_RETURN(library_, OpenMatrixLibrary());
  }
  device_.emplace(stream_.get(), info_.limits);
  device_->SetMatrixLibrary(library_.get());
  return absl::OkStatus();
}

absl::Status CudaRankLoader::PrepareLibrary(const RankWeights& weights, const LoadModel& load) {
  if (library_ == nullptr || weights.layers().empty()) return absl::OkStatus();
  const LayerWeights& layer = weights.layers()[0];  // all layers have the same shapes
  for (const PackedWeight* weight : {&layer.wqkv, &layer.wo, &layer.w13, &layer.w2}) {
    library_->Prepare(*weight, load.max_num_batched_tokens);
  }
  if (weights.shape().has_head) {
    library_->Prepare(weights.output(), StageTraits<CudaDevice>::kHeadTileRows);
  }
  return absl::OkStatus();
}

absl::StatusOr<int64_t> CudaRankLoader::CountBlocks(const RankWeights& weights,
                                                    const LoadModel& load,
                                                    int64_t budget_bytes) const {
  const CudaRankMemory memory =
      PlanCudaRankMemory(*device_, weights, LimitsFor(weights.config(), load));
  const bool is_alone = load.tensor_parallel_size == 1 && load.layers_per_stage.size() == 1;
  const int64_t driver_bytes = kDriverBytes + (is_alone ? 0 : kNcclBytes);
  const int64_t left_bytes = budget_bytes - weights.bytes() - memory.workspace_bytes - driver_bytes;
  const int64_t n_blocks = left_bytes / memory.kv_bytes_per_block - memory.n_padding_blocks;
  const int64_t n_needed = CeilDiv(load.max_model_len, GroupLimits().block_size);
  LogInfo("GPU memory", {{"device", DeviceName()},
                         {"budget_bytes", budget_bytes},
                         {"weight_bytes", weights.bytes()},
                         {"workspace_bytes", memory.workspace_bytes},
                         {"driver_bytes", driver_bytes},
                         {"kv_blocks", std::max<int64_t>(n_blocks, 0)},
                         {"kv_tokens", std::max<int64_t>(n_blocks, 0) * GroupLimits().block_size}});
  if (n_blocks >= n_needed) return n_blocks;
  return absl::ResourceExhaustedError(absl::StrFormat(
      "cuda:%d: --gpu-memory-utilization=%.2f gives this process %d bytes; weights "
      "take %d, working "
      "memory %d, driver and NCCL %d, and one sequence of %d tokens needs %d for its KV "
      "cache: raise it, "
      "or lower --max-model-len, --max-num-batched-tokens or --max-num-seqs",
      info_.ordinal, options_.memory_utilization, budget_bytes, weights.bytes(),
      memory.workspace_bytes, driver_bytes, load.max_model_len,
      (n_needed + memory.n_padding_blocks) * memory.kv_bytes_per_block));
}

// INVALID_ARGUMENT unless weights and matrices are bfloat16: the GPU's operations take nothing
// else.
absl::Status CheckCudaPrecision(const Precision& precision, const LoadModel& load) {
  const absl::string_view served = InfoOf(DType::kBf16).name;
  if (precision.dtype == DType::kF16) {
    return absl::InvalidArgumentError(absl::StrCat(
        load.dtype, " weights are not supported on GPUs: --dtype ", served, " rounds them"));
  }
  if (precision.dtype == DType::kBf16 && precision.weights == WeightFormat::kBf16) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(absl::StrCat("dtype is '", load.dtype, "', quantization '",
                                                 load.quantization, "': a GPU serves ", served,
                                                 " without quantization (--dtype=", served, ")"));
}

absl::StatusOr<LoadedRank> CudaRankLoader::Load(const LoadModel& load, const LoadOptions& options) {
  RETURN_IF_ERROR(Open());
  ASSIGN_OR_RETURN(const Precision precision, ParsePrecision(load));
  RETURN_IF_ERROR(CheckCudaPrecision(precision, load));
  ASSIGN_OR_RETURN(const std::unique_ptr<WeightSource> source, OpenSource(load));
  ASSIGN_OR_RETURN(const RankShape shape, ShapeFor(source->config(), load));
  const int n_ranks = load.tensor_parallel_size * static_cast<int>(load.layers_per_stage.size());
  if (n_ranks > 1) {
    RETURN_IF_ERROR(Annotate(nccl_.status(), absl::StrCat("a group of ", n_ranks, " GPUs")));
    LogNcclSettings(**nccl_);
  }
  RETURN_IF_ERROR(CheckCudaModel(source->config(), shape));
  // Measured before the weights are allocated; memory that other processes use is not free.
  ASSIGN_OR_RETURN(const int64_t free_bytes, FreeCudaBytes());
  const int64_t budget_bytes = std::min(
      free_bytes,
      static_cast<int64_t>(static_cast<double>(info_.memory_bytes) * options_.memory_utilization));
  const SteadyTime begin = SteadyNow();
  CpuDevice readers(std::min(kMaxLoadThreads, UsableCpuCount()));
  LoadOptions load_options = options;
  // The same rule as for CPU ranks, although here only the files' pages take the host's memory.
  load_options.drops_what_was_read = RankWeightBytes(source->config(), shape, precision,
                                                     kCudaMatrices) > AvailableMemoryBytes() / 4;
  ASSIGN_OR_RETURN(auto weights, LoadDeviceWeights(*source, shape, precision, readers, load_options,
                                                   std::make_unique<CudaWeightMemory>(&stream_)));
  RETURN_IF_ERROR(PrepareLibrary(*weights, load));
  LoadAllKernels();
  LoadedRank result;
  LoadedModel& loaded = result.loaded;
  loaded.load = load;
  loaded.fingerprint = source->fingerprint().ToHex();
  loaded.weight_bytes = weights->bytes();
  loaded.digests = weights->digests();
  loaded.kv_block_bytes =
      KvBytesPerBlock(source->config(), shape, precision.kv_dtype(), GroupLimits().block_size);
  loaded.kv_memory_is_reserved = true;
  ASSIGN_OR_RETURN(loaded.max_blocks, CountBlocks(*weights, load, budget_bytes));
  LogInfo("weights loaded", {{"model", load.model_path},
                             {"device", DeviceName()},
                             {"bytes", loaded.weight_bytes},
                             {"seconds", absl::ToDoubleSeconds(SteadyNow() - begin)}});
  result.rank =
      std::make_unique<CudaRank>(&*device_, &stream_, std::move(weights),
                                 CudaRankOptions{.use_graphs = options_.use_graphs,
                                                 .deterministic = options_.deterministic,
                                                 .nccl = nccl_.ok() ? nccl_->get() : nullptr});
  return result;
}

}  // namespace

absl::StatusOr<std::unique_ptr<RankLoader>> MakeCudaRankLoader(const CudaLoaderOptions& options) {
  // The driver reads this variable at its first use: the number of hardware queues (8 by default).
  // If there are more streams than queues, streams share queues and wait for each other. A rank has
  // up to four streams, and NCCL has two for each communicator.
  setenv("CUDA_DEVICE_MAX_CONNECTIONS", "32", /*overwrite=*/0);
  ASSIGN_OR_RETURN(const CudaDeviceInfo info, OpenCudaDevice(options.ordinal));
  // Opened here only to report a missing cuBLASLt when the worker starts, not when it loads a
  // model.
  if (!options.deterministic) RETURN_IF_ERROR(OpenMatrixLibrary().status());
  return std::make_unique<CudaRankLoader>(options, info);
}

bool HasCudaDevice() {
  const absl::StatusOr<std::vector<CudaDeviceInfo>> devices = ListCudaDevices();
  return devices.ok() && !devices->empty();
}

std::vector<std::string> DescribeCudaDevices() {
  const absl::StatusOr<std::vector<CudaDeviceInfo>> devices = ListCudaDevices();
  if (!devices.ok()) return {absl::StrCat("cuda: ", devices.status().message())};
  if (devices->empty()) return {"cuda: no GPU"};
  std::vector<std::string> lines;
  for (const CudaDeviceInfo& info : *devices) lines.push_back(Describe(info));
  return lines;
}

}  // namespace bora

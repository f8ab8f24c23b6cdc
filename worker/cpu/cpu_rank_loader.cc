#include "worker/cpu/cpu_rank_loader.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "base/clock.h"
#include "base/host/host_cpus.h"
#include "base/int_math.h"
#include "base/log.h"
#include "base/number_formats.h"
#include "base/status_macros.h"
#include "kernels/cpu/cpu_device.h"
#include "worker/cpu/cpu_rank.h"
#include "worker/weights/host_memory.h"
#include "worker/weights/host_weights.h"

namespace bora {
namespace {

// Bytes of memory that are left for the process itself: stacks of threads, buffers of gRPC and of
// links to other ranks, page tables.
constexpr int64_t kProcessBytes = 8 << 20;

// RESOURCE_EXHAUSTED, with all numbers, if the memory does not hold the rank's weights and one
// request of max_model_len tokens. It is called before a weight is read, since the kernel kills a
// process that takes more memory than there is.
absl::Status CheckMemory(const CpuRankMemory& plan, const GroupLimits& limits) {
  const int64_t kv_bytes =
      CeilDiv(limits.max_model_len, limits.block_size) * plan.kv_bytes_per_block;
  const int64_t needed_bytes = plan.weight_bytes + plan.workspace_bytes + kv_bytes + kProcessBytes;
  const int64_t available_bytes = AvailableMemoryBytes();
  if (needed_bytes <= available_bytes) return absl::OkStatus();
  return absl::ResourceExhaustedError(absl::StrCat(
      "this rank needs ", needed_bytes, " bytes of memory (weights ", plan.weight_bytes,
      ", working memory ", plan.workspace_bytes, ", keys and values of one request of ",
      limits.max_model_len, " tokens ", kv_bytes, ", threads and buffers ", kProcessBytes, "), ",
      available_bytes, " are available (", MemoryBoundText(),
      "): lower --max-model-len, take --quantization=", ListOfNames(QuantizationNames(), "or"),
      ", or divide the model over more workers"));
}

}  // namespace

std::string CpuRankLoader::DeviceName() const {
  std::string name = absl::StrCat("cpu (", DescribeSimdChoice(options_.simd));
  if (const int n_threads = n_threads_; n_threads > 0) {
    absl::StrAppend(&name, ", ", n_threads, " threads");
  }
  return name + ")";
}

absl::StatusOr<LoadedRank> CpuRankLoader::Load(const LoadModel& load, const LoadOptions& options) {
  device_.reset();
  ASSIGN_OR_RETURN(const Precision precision, ParsePrecision(load));
  ASSIGN_OR_RETURN(const std::unique_ptr<WeightSource> source, OpenSource(load));
  ASSIGN_OR_RETURN(const RankShape shape, ShapeFor(source->config(), load));
  const int n_ranks = load.tensor_parallel_size * static_cast<int>(load.layers_per_stage.size());
  // Which hosts the other ranks are on is known only when the group is joined (ShareHost). Until
  // then the device takes its share as if all of them were on this host.
  device_ = std::make_unique<CpuDevice>(
      DeviceOptions(load.stage * load.tensor_parallel_size + load.tensor_rank, n_ranks));
  n_threads_ = device_->n_threads();
  const GroupLimits limits = LimitsFor(source->config(), load);
  const CpuRankMemory plan =
      PlanCpuRankMemory(*device_, source->config(), shape, precision, limits);
  RETURN_IF_ERROR(CheckMemory(plan, limits));
  LoadOptions load_options = options;
  // At a quarter of the memory, weights and their files' pages together fill half of it. Above that
  // the kernel begins to take pages back in the middle of the load.
  load_options.drops_what_was_read = plan.weight_bytes > AvailableMemoryBytes() / 4;
  const SteadyTime begin = SteadyNow();
  ASSIGN_OR_RETURN(auto weights,
                   LoadHostWeights(*source, shape, precision, *device_, load_options));
  LoadedRank result;
  LoadedModel& loaded = result.loaded;
  loaded.load = load;
  loaded.fingerprint = source->fingerprint().ToHex();
  loaded.weight_bytes = weights->bytes();
  loaded.digests = weights->digests();
  loaded.kv_block_bytes = plan.kv_bytes_per_block;
  result.rank = std::make_unique<CpuRank>(device_.get(), std::move(weights), RankOptions{});
  // The other ranks of the group may be on this host too, and take as much of its memory. A tenth
  // of this rank's share, at least kProcessBytes, is left free.
  const int64_t available_bytes = AvailableMemoryBytes() / n_ranks;
  const int64_t left_bytes = std::max(available_bytes / 10, kProcessBytes);
  const int64_t kv_bytes = available_bytes - left_bytes - plan.workspace_bytes;
  loaded.max_blocks = std::max<int64_t>(kv_bytes, 0) / std::max<int64_t>(loaded.kv_block_bytes, 1);
  LogInfo("weights loaded", {{"model", load.model_path},
                             {"dtype", load.dtype},
                             {"quantization", load.quantization},
                             {"stage", load.stage},
                             {"tensor_rank", load.tensor_rank},
                             {"layer_begin", shape.layers.begin},
                             {"layer_end", shape.layers.end},
                             {"bytes", loaded.weight_bytes},
                             {"workspace_bytes", plan.workspace_bytes},
                             {"instruction_set", DescribeSimdChoice(options_.simd)},
                             {"threads", device_->n_threads()},
                             {"seconds", absl::ToDoubleSeconds(SteadyNow() - begin)}});
  return result;
}

CpuDeviceOptions CpuRankLoader::DeviceOptions(int place, int n_ranks) const {
  CpuDeviceOptions device = {.simd = options_.simd};
  device.n_threads =
      options_.n_threads > 0 ? options_.n_threads : ThreadsPerRank(UsableCpuCount(), n_ranks);
  if (options_.pin_threads) device.cpus = CpusOfRank(UsableCpus(), place, device.n_threads);
  return device;
}

void CpuRankLoader::ShareHost(int place, int n_ranks) {
  const CpuDeviceOptions device = DeviceOptions(place, n_ranks);
  device_->Resize(device.n_threads, device.cpus);
  n_threads_ = device.n_threads;
}

}  // namespace bora

#include "coordinator/server_config.h"

#include <algorithm>
#include <filesystem>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/build_info.h"
#include "base/error_list.h"
#include "base/int_math.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "model/checkpoint.h"
#include "model/dummy_weights.h"
#include "model/partition.h"
#include "model/tensor_id.h"
#include "model/tokenizer_model.h"

namespace bora {
namespace {

// A model whose steps take long shows in a few of them what they take.
constexpr absl::Duration kCalibrationBudget = absl::Seconds(2);
constexpr int64_t kDefaultKvCacheBytes = int64_t{1} << 30;
constexpr double kMinTenantWeight = 0.001;
constexpr double kMaxTenantWeight = 1000;

absl::StatusOr<absl::flat_hash_map<std::string, double>> ParseTenantWeights(
    const std::vector<std::string>& words) {
  absl::flat_hash_map<std::string, double> weights;
  for (const std::string& word : words) {
    const std::pair<std::string, std::string> parts = absl::StrSplit(word, absl::MaxSplits('=', 1));
    double weight = 0;
    if (!absl::SimpleAtod(parts.second, &weight) ||
        !(weight >= kMinTenantWeight && weight <= kMaxTenantWeight)) {
      return absl::InvalidArgumentError(
          absl::StrCat("--tenant-weights: '", word, "' is not TENANT=WEIGHT with a weight in [",
                       kMinTenantWeight, ", ", kMaxTenantWeight, "]"));
    }
    if (!weights.emplace(parts.first, weight).second) {
      return absl::InvalidArgumentError(
          absl::StrCat("--tenant-weights: '", parts.first, "' is named twice"));
    }
  }
  return weights;
}

// What the weights on disk are, as far as the coordinator must know.
struct WeightFacts {
  std::string fingerprint;  // empty when the weights are not here
  std::string dtype = "bfloat16";
};

absl::StatusOr<WeightFacts> InspectWeights(const ServerFlags& flags,
                                           const ModelDirectory& directory) {
  WeightFacts facts;
  if (flags.load_format == "dummy") {
    facts.fingerprint = DummyWeights(directory.config, flags.seed).fingerprint().ToHex();
    return facts;
  }
  absl::StatusOr<Checkpoint> checkpoint = Checkpoint::Open(flags.model, directory);
  if (absl::IsNotFound(checkpoint.status())) {
    // A coordinator needs config and tokenizer only; the first worker's checkpoint will count.
    LogWarning("the weights are not on this machine", {{"reason", checkpoint.status().message()}});
    return facts;
  }
  RETURN_IF_ERROR(checkpoint.status());
  facts.fingerprint = checkpoint->fingerprint().ToHex();
  if (checkpoint->Find(TensorId{TensorKind::kNorm}).dtype == FileDType::kF32)
    facts.dtype = "float32";
  return facts;
}

absl::StatusOr<std::unique_ptr<const Tokenizer>> OpenTokenizer(const ServerFlags& flags,
                                                               const ModelConfig& model) {
  const std::string path = flags.tokenizer.empty()
                               ? (std::filesystem::path(flags.model) / "tokenizer.model").string()
                               : flags.tokenizer;
  ASSIGN_OR_RETURN(Vocabulary vocabulary, LoadSentencePieceModel(path));
  absl::StatusOr<Tokenizer> tokenizer = Tokenizer::Create(std::move(vocabulary));
  RETURN_IF_ERROR(Annotate(tokenizer.status(), path));
  if (tokenizer->vocab_size() != model.vocab_size) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": ", tokenizer->vocab_size(),
                                                   " pieces, the model's config says vocab_size ",
                                                   model.vocab_size));
  }
  return std::make_unique<const Tokenizer>(*std::move(tokenizer));
}

// What the model's files say. Members are there unless reading them failed.
struct ModelFiles {
  ModelConfig model;
  std::unique_ptr<const Tokenizer> tokenizer;
  WeightFacts weights;
};

ModelFiles ReadModelFiles(const ServerFlags& flags, ErrorList* errors) {
  ModelFiles files;
  absl::StatusOr<ModelDirectory> directory = ReadModelDirectory(flags.model);
  if (!errors->Add(directory.status())) return files;
  files.model = directory->config;
  absl::StatusOr<std::unique_ptr<const Tokenizer>> tokenizer = OpenTokenizer(flags, files.model);
  if (errors->Add(tokenizer.status())) files.tokenizer = *std::move(tokenizer);
  absl::StatusOr<WeightFacts> weights = InspectWeights(flags, *directory);
  if (errors->Add(weights.status())) files.weights = *std::move(weights);
  return files;
}

absl::Status CheckMaxModelLen(const ModelConfig& model, int64_t max_model_len) {
  if (max_model_len < 2 || max_model_len > kMaxPosition) {
    return absl::InvalidArgumentError(
        absl::StrCat("--max-model-len=", max_model_len, " is not in [2, ", kMaxPosition, "]"));
  }
  return CheckContextLength(model, max_model_len);
}

// For --kv-cache-memory-bytes: what a request of full length takes is the least that is of use.
absl::StatusOr<int64_t> KvCacheBytes(const ServerFlags& flags, const ModelConfig& model,
                                     const Partition& partition, const ClusterOptions& cluster) {
  int64_t n_layers = 0;  // of the stage with most
  for (const LayerRange& stage : partition.stages) n_layers = std::max(n_layers, stage.n_layers());
  const int64_t value_bytes = cluster.load.dtype == "float32" ? 4 : 2;
  const int64_t local_n_kv_heads = ShapeOfRank(model, partition, 0, 0).local_n_kv_heads;
  const int64_t token_bytes = 2 * n_layers * local_n_kv_heads * model.head_dim * value_bytes;
  const int64_t request_bytes =
      RoundUp(cluster.limits.max_model_len, cluster.limits.block_size) * token_bytes;
  if (flags.kv_cache_memory_bytes == 0) return std::max(kDefaultKvCacheBytes, request_bytes);
  if (flags.kv_cache_memory_bytes >= request_bytes) return flags.kv_cache_memory_bytes;
  return absl::InvalidArgumentError(absl::StrCat(
      "--kv-cache-memory-bytes=", flags.kv_cache_memory_bytes, " is less than the ", request_bytes,
      " bytes that one request of --max-model-len=", cluster.limits.max_model_len,
      " tokens takes on a worker"));
}

ModelFacts MakeModelFacts(const ServerFlags& flags, const ModelConfig& model,
                          const LoadModel& load) {
  ModelFacts facts;
  facts.name = flags.served_model_name;
  if (facts.name.empty()) {
    // "dir/" and "dir" are the same model.
    std::filesystem::path path = std::filesystem::path(flags.model).lexically_normal();
    if (path.filename().empty()) path = path.parent_path();
    facts.name = path.filename().string();
  }
  facts.context_length = load.max_model_len;
  facts.eos_token_ids = model.eos_ids;
  facts.dtype = load.dtype;
  facts.quantization = load.quantization;
  facts.n_layers = static_cast<int32_t>(model.n_layers);
  facts.dim = static_cast<int32_t>(model.dim);
  facts.n_heads = static_cast<int32_t>(model.n_heads);
  facts.n_kv_heads = static_cast<int32_t>(model.n_kv_heads);
  return facts;
}

ServerFacts MakeServerFacts(const ServerFlags& flags, const GroupLimits& limits) {
  ServerFacts facts;
  facts.version = BuildVersion();
  facts.git_commit = BuildCommit();
  facts.tensor_parallel_size = flags.tensor_parallel_size;
  facts.pipeline_parallel_size = flags.pipeline_parallel_size;
  facts.block_size = limits.block_size;
  facts.max_num_seqs = limits.max_num_seqs;
  facts.max_num_batched_tokens = limits.max_num_batched_tokens;
  facts.max_num_queued_reqs = flags.max_num_queued_reqs;
  return facts;
}

}  // namespace

absl::Status CheckModelFiles(const ServerFlags& flags) {
  ErrorList errors;
  if (!flags.model.empty()) ReadModelFiles(flags, &errors);
  return errors.ToStatus();
}

absl::StatusOr<ServerConfig> MakeServerConfig(const ServerFlags& flags) {
  ServerConfig config;
  ErrorList errors;
  absl::StatusOr<absl::flat_hash_map<std::string, double>> tenant_weights =
      ParseTenantWeights(flags.tenant_weights);
  errors.Add(tenant_weights.status());
  ModelFiles files = ReadModelFiles(flags, &errors);
  RETURN_IF_ERROR(errors.ToStatus());
  config.engine.tenant_weights = *std::move(tenant_weights);
  config.model = std::move(files.model);
  config.tokenizer = std::move(files.tokenizer);
  const WeightFacts weights = std::move(files.weights);

  const absl::StatusOr<Partition> partition =
      MakePartition(config.model, flags.tensor_parallel_size, flags.pipeline_parallel_size,
                    flags.layers_per_stage);
  errors.Add(partition.status());
  int64_t max_model_len = flags.max_model_len;
  if (max_model_len == 0) {
    max_model_len = std::min(config.model.max_position,
                             config.model.sliding_window.value_or(config.model.max_position));
  }
  errors.Add(CheckMaxModelLen(config.model, max_model_len));
  RETURN_IF_ERROR(errors.ToStatus());

  ClusterOptions& cluster = config.engine.cluster;
  cluster.build_id = BuildId();
  cluster.fingerprint = weights.fingerprint;
  // Workers may have another working directory.
  cluster.load.model_path = std::filesystem::absolute(flags.model).lexically_normal().string();
  cluster.load.dummy_weights = flags.load_format == "dummy";
  cluster.load.dummy_seed = flags.seed;
  cluster.load.dtype = flags.dtype == "auto" ? weights.dtype : flags.dtype;
  if (flags.quantization != "none") cluster.load.quantization = flags.quantization;
  cluster.load.tensor_parallel_size = flags.tensor_parallel_size;
  for (const LayerRange& stage : partition->stages) {
    cluster.load.layers_per_stage.push_back(static_cast<int32_t>(stage.n_layers()));
  }
  cluster.load.max_model_len = static_cast<int32_t>(max_model_len);
  cluster.load.max_num_seqs = flags.max_num_seqs;
  cluster.load.max_num_batched_tokens = flags.max_num_batched_tokens;
  cluster.limits.max_num_seqs = flags.max_num_seqs;
  cluster.limits.max_num_batched_tokens = flags.max_num_batched_tokens;
  cluster.limits.max_model_len = static_cast<int32_t>(max_model_len);
  cluster.limits.vocab_size = static_cast<int32_t>(config.model.vocab_size);
  ASSIGN_OR_RETURN(cluster.kv_cache_bytes_max,
                   KvCacheBytes(flags, config.model, *partition, cluster));
  cluster.heartbeat_timeout = flags.heartbeat_timeout;
  cluster.kv_cache_bytes_given = flags.kv_cache_memory_bytes != 0;
  config.engine.max_num_queued_reqs = flags.max_num_queued_reqs;
  config.engine.prefix_cache = flags.enable_prefix_caching;
  config.engine.calibration_budget = kCalibrationBudget;
  config.engine.run_ahead = flags.async_scheduling;
  config.engine.step_time_budget = absl::Milliseconds(flags.step_time_budget_ms);
  config.model_facts = MakeModelFacts(flags, config.model, cluster.load);
  config.server_facts = MakeServerFacts(flags, cluster.limits);
  return config;
}

}  // namespace bora

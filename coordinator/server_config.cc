#include "coordinator/server_config.h"

#include <algorithm>
#include <filesystem>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "base/build_info.h"
#include "base/error_list.h"
#include "base/int_math.h"
#include "base/log.h"
#include "base/number_formats.h"
#include "base/status_macros.h"
#include "model/checkpoint/checkpoint.h"
#include "model/checkpoint/dummy_weights.h"
#include "model/checkpoint/tensor_id.h"
#include "model/generation_config.h"
#include "model/json.h"
#include "model/planning/partition.h"
#include "model/text/added_tokens.h"
#include "model/text/tokenizer_model.h"

namespace bora {
namespace {

// How long a new group calibrates. Enough for slow models too: the longer a step takes, the fewer
// steps show its cost.
constexpr absl::Duration kCalibrationBudget = absl::Seconds(2);
constexpr int64_t kDefaultKvCacheBytes = int64_t{1} << 30;  // of each worker
constexpr double kMinTenantWeight = 0.001;
constexpr double kMaxTenantWeight = 1000;

// The weights of words like "NAME=WEIGHT", by name; INVALID_ARGUMENT names the first bad word.
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

// Facts about the weights on disk that the coordinator needs.
struct WeightFacts {
  std::string fingerprint;  // empty if the weights are not on this machine
  // Name of the type that they are stored in; bfloat16 if it is unknown.
  std::string dtype = std::string(InfoOf(DType::kBf16).name);
};

// Opens the checkpoint if it is on this machine, without reading its weights; for dummy weights,
// computes their fingerprint.
absl::StatusOr<WeightFacts> InspectWeights(const ServerFlags& flags,
                                           const ModelDirectory& directory) {
  WeightFacts facts;
  if (flags.load_format == "dummy") {
    facts.fingerprint = DummyWeights(directory.config, flags.seed).fingerprint().ToHex();
    LogInfo("dummy weights", {{"fingerprint", facts.fingerprint}, {"seed", flags.seed}});
    return facts;
  }
  absl::StatusOr<Checkpoint> checkpoint = Checkpoint::Open(flags.model, directory);
  if (absl::IsNotFound(checkpoint.status())) {
    // The coordinator needs only config and tokenizer. The workers agree on a checkpoint then, see
    // WeightAgreement.
    LogWarning("the weights are not on this machine", {{"reason", checkpoint.status().message()}});
    return facts;
  }
  RETURN_IF_ERROR(checkpoint.status());
  facts.fingerprint = checkpoint->fingerprint().ToHex();
  LogInfo("the weights are on this machine too", {{"fingerprint", facts.fingerprint}});
  // The type of the last norm stands for all weights.
  const FileDType stored = checkpoint->Find(TensorId{TensorKind::kNorm}).dtype;
  if (const auto dtype = WeightTypeOf(stored)) facts.dtype = std::string(InfoOf(*dtype).name);
  const int64_t n_float16 = checkpoint->CountStored(FileDType::kF16);
  if (n_float16 > 0 && flags.dtype == InfoOf(DType::kBf16).name) {
    LogWarning("--dtype=bfloat16: float16 weights are rounded",
               {{"tensors", n_float16}, {"exact", "--dtype=float16"}});
  }
  return facts;
}

// Reads the generation_config.json that flags.generation_config chooses. INVALID_ARGUMENT if it
// names ids that the model does not have, or if the flag names a directory without such a file.
absl::StatusOr<GenerationConfig> OpenGenerationConfig(const ServerFlags& flags,
                                                      const ModelConfig& model) {
  const bool is_other_dir = flags.generation_config != "auto" &&
                            flags.generation_config != "none" && flags.generation_config != "vllm";
  const std::string& dir = is_other_dir ? flags.generation_config : flags.model;
  const std::filesystem::path path = std::filesystem::path(dir) / "generation_config.json";
  std::error_code error;
  if (is_other_dir && !std::filesystem::exists(path, error)) {
    return absl::InvalidArgumentError(absl::StrCat("--generation-config=", dir,
                                                   " is not auto, none, vllm or a folder with a ",
                                                   "generation_config.json"));
  }
  ASSIGN_OR_RETURN(GenerationConfig generation, ReadGenerationConfig(dir));
  for (const int32_t id : generation.eos_ids) {
    if (id < model.vocab_size) continue;
    return absl::InvalidArgumentError(absl::StrCat(path.string(), ": eos_token_id is ", id,
                                                   ", must be in [0, vocab_size ", model.vocab_size,
                                                   ")"));
  }
  if (flags.generation_config == "none" || flags.generation_config == "vllm") {
    generation.sampling = SamplingDefaults();
  } else if (generation.asks_for_greedy) {
    LogInfo("generation_config.json: do_sample is false, which does not count here",
            {{"greedy", "a request asks for it by temperature 0"}});
  }
  return generation;
}

// The error if there is no file at `path`: names tokenizer files that the directory has instead,
// and says what to do.
absl::Status NoTokenizerError(const std::string& path) {
  const std::filesystem::path dir = std::filesystem::path(path).parent_path();
  std::vector<std::string> unread;          // formats of other tokenizers
  std::vector<std::string> sentence_piece;  // under another name
  for (const std::string& name : ListFileNames(dir.string())) {
    if (name == "tokenizer.json" || name == "tekken.json") unread.push_back(name);
    if (absl::StartsWith(name, "tokenizer.model.")) sentence_piece.push_back(name);
  }
  std::string text = absl::StrCat(path, ": no such file");
  if (!sentence_piece.empty()) {
    absl::StrAppend(&text, "; ", sentence_piece.front(), " is here: --tokenizer ",
                    (dir / sentence_piece.front()).string(), " takes it");
  } else if (!unread.empty()) {
    absl::StrAppend(&text, "; ", absl::StrJoin(unread, " and "),
                    unread.size() == 1 ? " is here, which is" : " are here, which are",
                    " not read, only SentencePiece files: --tokenizer FILE takes one");
  } else {
    absl::StrAppend(&text, "; --tokenizer FILE takes one from elsewhere");
  }
  return absl::NotFoundError(text);
}

// The tokenizer with the vocabulary of tokenizer.model, followed by the tokens that a fine-tune has
// added. The model may have more ids than both, whose rows only pad its matrices: such an id is
// never sampled.
absl::StatusOr<std::unique_ptr<const Tokenizer>> OpenTokenizer(const ServerFlags& flags,
                                                               const ModelConfig& model,
                                                               const GenerationConfig& generation) {
  const std::string path = flags.tokenizer.empty()
                               ? (std::filesystem::path(flags.model) / "tokenizer.model").string()
                               : flags.tokenizer;
  absl::StatusOr<Vocabulary> vocabulary = LoadSentencePieceModel(path);
  if (absl::IsNotFound(vocabulary.status())) return NoTokenizerError(path);
  RETURN_IF_ERROR(vocabulary.status());
  const auto n_pieces = static_cast<int64_t>(vocabulary->pieces.size());
  if (n_pieces > model.vocab_size) {
    return absl::InvalidArgumentError(absl::StrCat(
        path, ": ", n_pieces, " pieces, the model's config says vocab_size ", model.vocab_size));
  }
  if (n_pieces < model.vocab_size) {
    ASSIGN_OR_RETURN(const AddedTokens added, ReadAddedTokens(flags.model));
    std::vector<int32_t> eos_ids = model.eos_ids;
    eos_ids.insert(eos_ids.end(), generation.eos_ids.begin(), generation.eos_ids.end());
    AppendAddedTokens(added, eos_ids, model.vocab_size, &*vocabulary);
    LogInfo("the model has more token ids than tokenizer.model",
            {{"pieces", n_pieces},
             {"added_tokens", static_cast<int64_t>(vocabulary->pieces.size()) - n_pieces},
             {"never_drawn", model.vocab_size - static_cast<int64_t>(vocabulary->pieces.size())}});
  }
  absl::StatusOr<Tokenizer> tokenizer = Tokenizer::Create(*std::move(vocabulary));
  RETURN_IF_ERROR(Annotate(tokenizer.status(), path));
  return std::make_unique<const Tokenizer>(*std::move(tokenizer));
}

// The ids that end a completion: all ids of config.json and generation_config.json, and the
// tokenizer's; ascending and unique. Logs a warning if model and tokenizer contradict each other.
std::vector<int32_t> EosIds(const ModelConfig& model, const GenerationConfig& generation,
                            const Tokenizer& tokenizer) {
  if (tokenizer.bos_id() != model.bos_id) {
    LogWarning("tokenizer and model config name different beginnings of a sequence",
               {{"tokenizer_bos_token_id", tokenizer.bos_id()},
                {"config_bos_token_id", model.bos_id},
                {"prompts_begin_with", tokenizer.bos_id() < 0 ? "none" : "the tokenizer's"}});
  }
  std::vector<int32_t> ids = model.eos_ids;
  ids.insert(ids.end(), generation.eos_ids.begin(), generation.eos_ids.end());
  const bool is_known = std::find(ids.begin(), ids.end(), tokenizer.eos_id()) != ids.end();
  if (tokenizer.eos_id() >= 0 && !is_known) {
    LogWarning("tokenizer and model config name different ends of a sequence: each counts",
               {{"tokenizer_eos_token_id", tokenizer.eos_id()},
                {"config_eos_token_ids", absl::StrJoin(ids, ",")}});
    ids.push_back(tokenizer.eos_id());
  }
  std::sort(ids.begin(), ids.end());
  ids.erase(std::unique(ids.begin(), ids.end()), ids.end());
  return ids;
}

// The contents of the model's files. A member whose file could not be read keeps its initial value.
struct ModelFiles {
  ModelConfig model;
  GenerationConfig generation;
  std::unique_ptr<const Tokenizer> tokenizer;
  WeightFacts weights;
};

// Reads all files of the model and adds every error to `errors`. Without a readable config nothing
// else is read.
ModelFiles ReadModelFiles(const ServerFlags& flags, ErrorList* errors) {
  ModelFiles files;
  absl::StatusOr<ModelDirectory> directory = ReadModelDirectory(flags.model);
  if (!errors->Add(directory.status())) return files;
  files.model = directory->config;
  absl::StatusOr<GenerationConfig> generation = OpenGenerationConfig(flags, files.model);
  if (errors->Add(generation.status())) files.generation = *std::move(generation);
  absl::StatusOr<std::unique_ptr<const Tokenizer>> tokenizer =
      OpenTokenizer(flags, files.model, files.generation);
  if (errors->Add(tokenizer.status())) files.tokenizer = *std::move(tokenizer);
  absl::StatusOr<WeightFacts> weights = InspectWeights(flags, *directory);
  if (errors->Add(weights.status())) files.weights = *std::move(weights);
  return files;
}

// OK if the length is in the range of positions and the model has that context.
absl::Status CheckMaxModelLen(const ModelConfig& model, int64_t max_model_len) {
  if (max_model_len < 2 || max_model_len > kMaxPosition) {
    return absl::InvalidArgumentError(
        absl::StrCat("--max-model-len=", max_model_len, " is not in [2, ", kMaxPosition, "]"));
  }
  return CheckContextLength(model, max_model_len);
}

// The KV cache of each worker in bytes: --kv-cache-memory-bytes, or by default 1 GiB, or the need
// of one request of max_model_len tokens if that is more. INVALID_ARGUMENT if the flag is less than
// the need of such a request, which could then never run. The need is
//   2 (K and V) * n_layers * local_n_kv_heads * head_dim * bytes of a value
// per token, for the stage with the most layers.
absl::StatusOr<int64_t> KvCacheBytes(const ServerFlags& flags, const ModelConfig& model,
                                     const Partition& partition, const ClusterOptions& cluster) {
  int64_t n_layers = 0;  // of the stage with the most layers
  for (const LayerRange& stage : partition.stages) n_layers = std::max(n_layers, stage.n_layers());
  ASSIGN_OR_RETURN(const DType dtype, ParseDType(cluster.load.dtype));
  const int64_t value_bytes = DTypeBytes(InfoOf(dtype).kv_dtype);
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

// The model's context length, or its sliding window if that is shorter: attention here always
// covers the whole context, which is the same up to the window's length.
int64_t DefaultContextLength(const ModelConfig& model) {
  const int64_t window = model.sliding_window.value_or(model.max_position);
  if (window < model.max_position) {
    LogWarning("the context is limited to the sliding window: beyond it the model is not served",
               {{"context_length", model.max_position}, {"sliding_window", window}});
  }
  return std::min(model.max_position, window);
}

ModelFacts MakeModelFacts(const ServerFlags& flags, const ModelConfig& model, const LoadModel& load,
                          const GenerationConfig& generation, const Tokenizer& tokenizer) {
  ModelFacts facts;
  facts.name = flags.served_model_name;
  if (facts.name.empty()) {
    // The last part of the path, also for "dir/".
    std::filesystem::path path = std::filesystem::path(flags.model).lexically_normal();
    if (path.filename().empty()) path = path.parent_path();
    facts.name = path.filename().string();
  }
  facts.context_length = load.max_model_len;
  facts.eos_token_ids = EosIds(model, generation, tokenizer);
  facts.sampling_defaults = generation.sampling;
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
  facts.generation_config = flags.generation_config;
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
  config.engine.group.tenant_weights = *std::move(tenant_weights);
  config.model = std::move(files.model);
  config.tokenizer = std::move(files.tokenizer);
  const GenerationConfig generation = std::move(files.generation);
  const WeightFacts weights = std::move(files.weights);

  const absl::StatusOr<Partition> partition =
      MakePartition(config.model, flags.tensor_parallel_size, flags.pipeline_parallel_size,
                    flags.layers_per_stage);
  errors.Add(partition.status());
  int64_t max_model_len = flags.max_model_len;
  if (max_model_len == 0) {
    max_model_len = DefaultContextLength(config.model);
  }
  errors.Add(CheckMaxModelLen(config.model, max_model_len));
  RETURN_IF_ERROR(errors.ToStatus());

  ClusterOptions& cluster = config.engine.cluster;
  cluster.build_id = BuildId();
  cluster.fingerprint = weights.fingerprint;
  cluster.n_kv_heads = config.model.n_kv_heads;
  cluster.tied_head = config.model.tie_word_embeddings;
  // An absolute path, since workers may have another working directory.
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
  // Only ids with a piece are sampled; the model may have more ids, see OpenTokenizer.
  cluster.limits.vocab_size = config.tokenizer->vocab_size();
  ASSIGN_OR_RETURN(cluster.kv_cache_bytes_max,
                   KvCacheBytes(flags, config.model, *partition, cluster));
  cluster.heartbeat_timeout = flags.heartbeat_timeout;
  cluster.kv_cache_bytes_given = flags.kv_cache_memory_bytes != 0;
  config.engine.max_num_queued_reqs = flags.max_num_queued_reqs;
  config.engine.prefix_cache = flags.enable_prefix_caching;
  config.engine.group.calibration_budget = kCalibrationBudget;
  config.engine.group.run_ahead = flags.async_scheduling;
  config.engine.group.step_time_budget = absl::Milliseconds(flags.step_time_budget_ms);
  config.model_facts =
      MakeModelFacts(flags, config.model, cluster.load, generation, *config.tokenizer);
  config.server_facts = MakeServerFacts(flags, cluster.limits);
  // The list of a request's stop ids has kMaxStopTokenIds places, and these ids take some of them.
  const size_t n_eos_ids = config.model_facts.eos_token_ids.size();
  if (n_eos_ids < 1 || n_eos_ids > kMaxStopTokenIds) {
    return absl::InvalidArgumentError(
        absl::StrCat(n_eos_ids, " ids end a completion, not in [1, ", kMaxStopTokenIds, "]"));
  }
  return config;
}

}  // namespace bora

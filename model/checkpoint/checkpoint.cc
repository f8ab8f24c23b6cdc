#include "model/checkpoint/checkpoint.h"

#include <algorithm>
#include <array>
#include <filesystem>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "base/check.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "model/checkpoint/weight_files.h"
#include "model/json.h"

namespace bora {
namespace {

// Most names in a message about missing or unexpected tensors.
constexpr size_t kMaxNamesShown = 5;
// Bytes of one sample for the fingerprint: a page.
constexpr size_t kSampleBytes = 4096;
// Bytes of each of two tensors that are in memory at a time when they are compared.
constexpr int64_t kCompareBytes = int64_t{1} << 20;

bool Exists(const std::string& path) {
  std::error_code error;
  return std::filesystem::exists(path, error);
}

// The files of weights of `layout` in `dir`; NOT_FOUND if there are none.
absl::StatusOr<WeightFiles> FindWeights(const std::string& dir, CheckpointLayout layout) {
  return FindWeightFiles(dir, IndexName(layout), SafetensorsName(layout, 0, 1));
}

// The error for `dir` that does not exist or is no directory. Adds a hint if the text looks like a
// name on a model hub ("owner/model").
absl::Status NoFolderError(const std::string& dir) {
  const bool is_hub_name = std::count(dir.begin(), dir.end(), '/') == 1 && dir.front() != '/' &&
                           dir.front() != '.' && dir.back() != '/';
  return absl::NotFoundError(absl::StrCat(
      dir, Exists(dir) ? ": not a folder; a model is a folder" : ": no such folder",
      is_hub_name && !Exists(dir) ? "; a model of a hub has to be downloaded first, then --model "
                                    "takes the folder that it is in"
                                  : ""));
}

// Returns Hugging Face's layout if `dir` has its config and its weights; else Mistral's layout if
// `dir` has its config and weights; else the layout of the config that exists, Hugging Face's
// first. NOT_FOUND if there is no folder or no config.
absl::StatusOr<CheckpointLayout> DetectLayout(const std::string& dir) {
  std::error_code error;
  if (!std::filesystem::is_directory(dir, error)) return NoFolderError(dir);
  constexpr CheckpointLayout kLayouts[] = {CheckpointLayout::kHuggingFace,
                                           CheckpointLayout::kMistral};
  const auto has_config = [&dir](CheckpointLayout layout) {
    return Exists(absl::StrCat(dir, "/", ConfigName(layout)));
  };
  for (const CheckpointLayout layout : kLayouts) {
    // A malformed index counts as weights here: the layout is chosen, and opening it reports the
    // error.
    if (has_config(layout) && !absl::IsNotFound(FindWeights(dir, layout).status())) return layout;
  }
  for (const CheckpointLayout layout : kLayouts) {
    if (has_config(layout)) return layout;
  }
  return absl::NotFoundError(
      absl::StrCat(dir, ": no model here: neither config.json nor params.json"));
}

// The names of a kind of tensor in files of each layout: the part after "layers.N." for kinds
// inside a layer, else the whole name.
struct StoredPart {
  TensorKind kind;
  const char* hugging_face;
  const char* mistral;
};

constexpr StoredPart kStoredParts[] = {
    {TensorKind::kTokEmbeddings, "model.embed_tokens.weight", "tok_embeddings.weight"},
    {TensorKind::kAttentionNorm, "input_layernorm.weight", "attention_norm.weight"},
    {TensorKind::kWq, "self_attn.q_proj.weight", "attention.wq.weight"},
    {TensorKind::kWk, "self_attn.k_proj.weight", "attention.wk.weight"},
    {TensorKind::kWv, "self_attn.v_proj.weight", "attention.wv.weight"},
    {TensorKind::kWo, "self_attn.o_proj.weight", "attention.wo.weight"},
    {TensorKind::kFfnNorm, "post_attention_layernorm.weight", "ffn_norm.weight"},
    {TensorKind::kW1, "mlp.gate_proj.weight", "feed_forward.w1.weight"},
    {TensorKind::kW2, "mlp.down_proj.weight", "feed_forward.w2.weight"},
    {TensorKind::kW3, "mlp.up_proj.weight", "feed_forward.w3.weight"},
    {TensorKind::kNorm, "model.norm.weight", "norm.weight"},
    {TensorKind::kOutput, "lm_head.weight", "output.weight"}};

// "3 tensors missing: a, b, c", with at most kMaxNamesShown names.
std::string ListNames(std::vector<std::string> names, absl::string_view what) {
  std::sort(names.begin(), names.end());
  const size_t n = names.size();
  names.resize(std::min(n, kMaxNamesShown));
  return absl::StrCat(n, n == 1 ? " tensor " : " tensors ", what, ": ", absl::StrJoin(names, ", "),
                      n > kMaxNamesShown ? ", ..." : "");
}

// Whether a stored tensor that the model does not need adds nothing to the config: tables of rotary
// frequencies, and the head of a tied model, which CheckTiedHead compares.
bool IsRedundant(const std::string& stored_name, const ModelConfig& config,
                 CheckpointLayout layout) {
  if (absl::EndsWith(stored_name, ".rotary_emb.inv_freq")) return true;
  return config.tie_word_embeddings &&
         stored_name == StoredName(layout, {TensorKind::kOutput, kNoLayer});
}

// Offsets of the first, middle and last kSampleBytes of a tensor of n_bytes.
std::array<int64_t, 3> SampleBegins(int64_t n_bytes) {
  constexpr auto kBytes = static_cast<int64_t>(kSampleBytes);
  return {0, std::max<int64_t>(n_bytes / 2 - kBytes / 2, 0),
          std::max<int64_t>(n_bytes - kBytes, 0)};
}

// Adds the samples of a tensor's bytes to `hash`, or all bytes if the tensor is no larger than
// three samples.
void AddSamples(absl::Span<const uint8_t> bytes, Fingerprinter& hash) {
  if (bytes.size() <= 3 * kSampleBytes) {
    hash.AddBytes(bytes);
    return;
  }
  for (const int64_t begin : SampleBegins(static_cast<int64_t>(bytes.size()))) {
    hash.AddBytes(bytes.subspan(static_cast<size_t>(begin), kSampleBytes));
  }
}

}  // namespace

absl::string_view LayoutName(CheckpointLayout layout) {
  return layout == CheckpointLayout::kHuggingFace ? "hugging-face" : "mistral";
}

std::string SafetensorsName(CheckpointLayout layout, int shard, int n_shards) {
  const char* stem = layout == CheckpointLayout::kHuggingFace ? "model" : "consolidated";
  if (n_shards == 1) return absl::StrCat(stem, ".safetensors");
  return absl::StrFormat("%s-%05d-of-%05d.safetensors", stem, shard + 1, n_shards);
}

std::string IndexName(CheckpointLayout layout) {
  return absl::StrCat(SafetensorsName(layout, 0, 1), ".index.json");
}

std::string ConfigName(CheckpointLayout layout) {
  return layout == CheckpointLayout::kHuggingFace ? "config.json" : "params.json";
}

std::string StoredName(CheckpointLayout layout, TensorId id) {
  const bool is_hf = layout == CheckpointLayout::kHuggingFace;
  for (const StoredPart& part : kStoredParts) {
    if (part.kind != id.kind) continue;
    const char* name = is_hf ? part.hugging_face : part.mistral;
    if (!IsLayerTensor(id.kind)) return name;
    return absl::StrCat(is_hf ? "model.layers." : "layers.", id.layer, ".", name);
  }
  CHECK(false) << "tensor kind " << static_cast<int>(id.kind);
  return "";
}

absl::StatusOr<ModelDirectory> ReadModelDirectory(const std::string& dir) {
  ASSIGN_OR_RETURN(const CheckpointLayout layout, DetectLayout(dir));
  const std::string path = absl::StrCat(dir, "/", ConfigName(layout));
  ASSIGN_OR_RETURN(const std::string text, ReadSmallFile(path, kMaxJsonBytes));
  absl::StatusOr<ModelConfig> config =
      layout == CheckpointLayout::kHuggingFace ? ParseHfConfig(text) : ParseMistralParams(text);
  if (!config.ok()) return Annotate(config.status(), dir);
  LogInfo("model config", {{"path", path}, {"layout", LayoutName(layout)}});
  for (const std::string& note : config->notes) {
    LogInfo("model config: a missing field was filled in", {{"rule", note}});
  }
  return ModelDirectory{layout, *std::move(config)};
}

absl::StatusOr<Checkpoint> Checkpoint::Open(const std::string& dir) {
  ASSIGN_OR_RETURN(const ModelDirectory directory, ReadModelDirectory(dir));
  return Open(dir, directory);
}

absl::StatusOr<Checkpoint> Checkpoint::Open(const std::string& dir,
                                            const ModelDirectory& directory) {
  Checkpoint checkpoint;
  checkpoint.layout_ = directory.layout;
  checkpoint.config_ = directory.config;
  ASSIGN_OR_RETURN(Locations stored, checkpoint.MapFiles(dir));
  RETURN_IF_ERROR(checkpoint.ResolveTensors(dir, std::move(stored)));
  RETURN_IF_ERROR(checkpoint.ComputeFingerprint(dir));
  return checkpoint;
}

absl::Status Checkpoint::AddFile(const std::string& path) {
  ASSIGN_OR_RETURN(SafetensorsFile file, SafetensorsFile::Open(path));
  file_begins_.push_back(files_.empty() ? 0 : file_begins_.back() + files_.back().data_bytes());
  files_.push_back(std::move(file));
  return absl::OkStatus();
}

absl::StatusOr<Checkpoint::Locations> Checkpoint::MapFiles(const std::string& dir) {
  ASSIGN_OR_RETURN(const WeightFiles files, FindWeights(dir, layout_));
  if (!files.note.empty())
    LogWarning("weights: files that contradict each other", {{"reason", files.note}});
  const std::string index_name = IndexName(layout_);
  Locations stored;
  for (const std::string& name : files.names) {
    RETURN_IF_ERROR(AddFile(absl::StrCat(dir, "/", name)));
    const std::vector<TensorInfo>& tensors = files_.back().tensors();
    for (size_t i = 0; i < tensors.size(); ++i) {
      const auto it = files.shard_of.find(tensors[i].name);
      const bool is_listed = it != files.shard_of.end();
      if (!files.shard_of.empty() && (!is_listed || it->second != name)) {
        return absl::InvalidArgumentError(absl::StrCat(
            files_.back().path(), ": holds tensor ", JsonQuote(tensors[i].name), ", which ",
            index_name, is_listed ? absl::StrCat(" places in ", it->second) : " does not list"));
      }
      stored[tensors[i].name] = {files_.size() - 1, i};
    }
  }
  for (const auto& [tensor, name] : files.shard_of) {
    if (stored.contains(tensor)) continue;
    return absl::InvalidArgumentError(absl::StrCat(dir, "/", index_name, ": places tensor ",
                                                   JsonQuote(tensor), " in ", name,
                                                   ", which does not hold it"));
  }
  return stored;
}

absl::Status Checkpoint::CheckStored(TensorId id, const Location& location) const {
  const TensorInfo& info = InfoAt(location);
  const TensorShape shape = ShapeOf(config_, id);
  const std::vector<int64_t> expected = shape.is_vector
                                            ? std::vector<int64_t>{shape.n_cols}
                                            : std::vector<int64_t>{shape.n_rows, shape.n_cols};
  const std::string prefix =
      absl::StrCat(files_[location.file].path(), ": tensor ", info.name, ": ");
  if (info.shape != expected) {
    return absl::InvalidArgumentError(absl::StrCat(prefix, "shape ", ShapeText(info.shape),
                                                   ", config says ", ShapeText(expected)));
  }
  if (!WeightTypeOf(info.dtype).has_value()) {
    return absl::InvalidArgumentError(absl::StrCat(prefix, "dtype ", FileDTypeName(info.dtype),
                                                   ", supported are F32, F16 and BF16"));
  }
  return absl::OkStatus();
}

absl::Status Checkpoint::ResolveTensors(const std::string& dir, Locations stored) {
  std::vector<std::string> missing;
  for (const TensorId id : AllTensors(config_)) {
    const auto it = stored.find(StoredName(layout_, id));
    if (it == stored.end()) {
      missing.push_back(StoredName(layout_, id));
      continue;
    }
    RETURN_IF_ERROR(CheckStored(id, it->second));
    by_name_[TensorName(id)] = it->second;
    stored.erase(it);
  }
  if (!missing.empty()) {
    return absl::InvalidArgumentError(absl::StrCat(dir, ": ", ListNames(missing, "missing")));
  }
  std::vector<std::string> unexpected;
  for (const auto& [name, location] : stored) {
    if (!IsRedundant(name, config_, layout_)) unexpected.push_back(JsonQuote(name));
  }
  if (!unexpected.empty()) {
    return absl::InvalidArgumentError(absl::StrCat(dir, ": ", ListNames(unexpected, "unexpected")));
  }
  if (stored.empty()) return absl::OkStatus();
  const auto head = stored.find(StoredName(layout_, {TensorKind::kOutput}));
  if (head != stored.end()) RETURN_IF_ERROR(CheckTiedHead(dir, head->second));
  std::vector<std::string> ignored;
  for (const auto& [name, location] : stored) ignored.push_back(name);
  LogInfo("checkpoint: tensors that say nothing new are ignored",
          {{"tensors", ListNames(ignored, "ignored")}});
  return absl::OkStatus();
}

// A model with a tied head needs no tensor for the head. If there is one, it must be a copy of the
// embeddings; otherwise either the config or the file is wrong.
absl::Status Checkpoint::CheckTiedHead(const std::string& dir, const Location& head) const {
  const Location& table = by_name_.at(TensorName({TensorKind::kTokEmbeddings}));
  const auto differs = [&](const auto&... how) {
    return absl::InvalidArgumentError(absl::StrCat(
        dir, ": tensor ", InfoAt(head).name, how..., " ", InfoAt(table).name, ", but ",
        ConfigName(layout_), " says that the head is tied to the embeddings (",
        layout_ == CheckpointLayout::kHuggingFace ? "tie_word_embeddings" : "tied_embeddings",
        "): one of the two is wrong"));
  };
  RETURN_IF_ERROR(CheckStored({TensorKind::kOutput}, head));
  if (InfoAt(head).dtype != InfoAt(table).dtype) {
    return differs(" is ", FileDTypeName(InfoAt(head).dtype), " and ",
                   FileDTypeName(InfoAt(table).dtype), " is");
  }
  const int64_t n_bytes = static_cast<int64_t>(InfoAt(head).end - InfoAt(head).begin);
  std::vector<uint8_t> a(std::min(n_bytes, kCompareBytes));
  std::vector<uint8_t> b(a.size());
  for (int64_t at = 0; at < n_bytes; at += kCompareBytes) {
    const auto n = static_cast<size_t>(std::min(kCompareBytes, n_bytes - at));
    RETURN_IF_ERROR(files_[head.file].ReadAt(InfoAt(head), at, absl::MakeSpan(a).first(n)));
    RETURN_IF_ERROR(files_[table.file].ReadAt(InfoAt(table), at, absl::MakeSpan(b).first(n)));
    if (std::equal(a.begin(), a.begin() + n, b.begin())) continue;
    return differs(" has other values than");
  }
  return absl::OkStatus();
}

absl::Status Checkpoint::ComputeFingerprint(const std::string& dir) {
  Fingerprinter hash;
  hash.AddString(LayoutName(layout_));
  AddConfig(config_, hash);
  // Advise the kernel of all samples first, so that the disk serves them in parallel.
  for (const SafetensorsFile& file : files_) {
    for (const TensorInfo& info : file.tensors()) {
      const auto n_bytes = static_cast<int64_t>(info.end - info.begin);
      for (const int64_t begin : SampleBegins(n_bytes)) file.WillRead(info, begin, kSampleBytes);
    }
  }
  for (const TensorId id : AllTensors(config_)) {
    const Location& location = by_name_.at(TensorName(id));
    const TensorInfo& info = InfoAt(location);
    hash.AddString(info.name);
    hash.AddString(FileDTypeName(info.dtype));
    for (const int64_t n : info.shape) hash.AddNumber(n);
    // Through the mapping: three reads of a page each per tensor.
    AddSamples(files_[location.file].Bytes(info), hash);
  }
  for (const SafetensorsFile& file : files_) file.ReleasePages();
  const std::string tokenizer = absl::StrCat(dir, "/tokenizer.model");
  if (Exists(tokenizer)) {
    ASSIGN_OR_RETURN(const std::string bytes,
                     ReadSmallFile(tokenizer, static_cast<size_t>(kMaxTokenizerModelBytes)));
    hash.AddString(bytes);
  }
  fingerprint_ = hash.Get();
  return absl::OkStatus();
}

int64_t Checkpoint::CountStored(FileDType dtype) const {
  return std::count_if(by_name_.begin(), by_name_.end(),
                       [&](const auto& entry) { return InfoAt(entry.second).dtype == dtype; });
}

StoredTensor Checkpoint::Find(TensorId id) const {
  const bool is_tied_head = id.kind == TensorKind::kOutput && config_.tie_word_embeddings;
  if (is_tied_head) id = {TensorKind::kTokEmbeddings, kNoLayer};
  const auto it = by_name_.find(TensorName(id));
  CHECK(it != by_name_.end()) << TensorName(id) << " is not a tensor of this model";
  const TensorInfo& info = InfoAt(it->second);
  const bool rotates = id.kind == TensorKind::kWq || id.kind == TensorKind::kWk;
  const SafetensorsFile& file = files_[it->second.file];
  return {.dtype = info.dtype,
          .file = &file,
          .info = &info,
          .position = file_begins_[it->second.file] + static_cast<int64_t>(info.begin),
          .interleaved_rotary = rotates && layout_ == CheckpointLayout::kMistral};
}

}  // namespace bora

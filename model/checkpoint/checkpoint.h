// A model directory: which layout it has, its config, and where the bytes of each weight are.
//
// Two layouts are read. Hugging Face: config.json with model.safetensors, or with
// model.safetensors.index.json and the shards it names. Mistral: params.json with
// consolidated.safetensors, or with consolidated.safetensors.index.json and its shards. When a
// directory holds both (published Mistral repositories do), Hugging Face's files are read and the
// others are ignored. Files are always found by name or through the index, never by a glob over
// *.safetensors (model/checkpoint/weight_files.h).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "model/checkpoint/fingerprint.h"
#include "model/checkpoint/safetensors.h"
#include "model/checkpoint/tensor_id.h"
#include "model/config.h"

namespace bora {

enum class CheckpointLayout { kHuggingFace, kMistral };

absl::string_view LayoutName(CheckpointLayout layout);

// What the layout calls the tensor, for example "model.layers.3.self_attn.q_proj.weight".
std::string StoredName(CheckpointLayout layout, TensorId id);

// The name of shard `shard` (from 0) of n_shards, and of the index that several shards need.
std::string SafetensorsName(CheckpointLayout layout, int shard, int n_shards);
std::string IndexName(CheckpointLayout layout);

// "config.json" or "params.json".
std::string ConfigName(CheckpointLayout layout);

struct ModelDirectory {
  CheckpointLayout layout = CheckpointLayout::kHuggingFace;
  ModelConfig config;
};

// Reads only the directory's config: enough to plan memory, or to serve dummy weights.
// NOT_FOUND when it has neither config.json nor params.json. Logs the config's notes.
absl::StatusOr<ModelDirectory> ReadModelDirectory(const std::string& dir);

// Where one weight is stored.
struct StoredTensor {
  FileDType dtype = FileDType::kF32;  // F32, F16 or BF16
  const SafetensorsFile* file = nullptr;
  const TensorInfo* info = nullptr;  // one of the file's; its bytes are row-major
  int64_t position = 0;              // of its first byte in all files of the checkpoint, in order
  bool interleaved_rotary = false;   // rows rotate adjacent pairs (Mistral's wq and wk)
};

// A checkpoint whose files are mapped and whose every tensor was found with the shape that the
// config says. Immutable after construction.
class Checkpoint {
 public:
  // Opens the directory. The message names the file, the tensor and both numbers: missing and
  // unexpected tensors are listed, except buffers known to be redundant (rotary_emb.inv_freq).
  // Index entries must be plain file names inside the directory; symbolic links are followed, since
  // the Hugging Face cache is made of them.
  static absl::StatusOr<Checkpoint> Open(const std::string& dir);
  // With what ReadModelDirectory has said of the directory.
  static absl::StatusOr<Checkpoint> Open(const std::string& dir, const ModelDirectory& directory);

  CheckpointLayout layout() const { return layout_; }
  const ModelConfig& config() const { return config_; }

  // The stored form of a weight of this config; kOutput of a tied model gives kTokEmbeddings.
  StoredTensor Find(TensorId id) const;

  // How many of the model's tensors are stored as `dtype`.
  int64_t CountStored(FileDType dtype) const;

  // A hash over the config, every tensor's name, dtype, shape and its first, middle and last 4 KiB,
  // and tokenizer.model where there is one. Cheap (12 KiB a tensor), equal on every host that has a
  // copy and for every sharding of the same tensors; different layouts of one model differ.
  // It finds mixed-up checkpoints before anything is read; what was read has a WeightDigest.
  Fingerprint fingerprint() const { return fingerprint_; }

 private:
  Checkpoint() = default;

  struct Location {
    size_t file = 0;    // position in files_
    size_t tensor = 0;  // position in its tensors()
  };
  using Locations = absl::flat_hash_map<std::string, Location>;

  // Maps the files of `layout_` in `dir` and lists every tensor in them by stored name.
  absl::StatusOr<Locations> MapFiles(const std::string& dir);
  absl::Status AddFile(const std::string& path);
  // Fills by_name_ from what is stored; every stored tensor must be used or known to be redundant.
  absl::Status ResolveTensors(const std::string& dir, Locations stored);
  absl::Status CheckStored(TensorId id, const Location& location) const;
  absl::Status CheckTiedHead(const std::string& dir, const Location& head) const;
  const TensorInfo& InfoAt(const Location& location) const {
    return files_[location.file].tensors()[location.tensor];
  }
  absl::Status ComputeFingerprint(const std::string& dir);

  CheckpointLayout layout_ = CheckpointLayout::kHuggingFace;
  ModelConfig config_;
  std::vector<SafetensorsFile> files_;
  std::vector<int64_t> file_begins_;  // [files_.size()] positions, see StoredTensor
  Locations by_name_;                 // by canonical name
  Fingerprint fingerprint_;
};

}  // namespace bora

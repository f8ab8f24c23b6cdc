// A model directory: its layout, its config, and the place of every weight in its files.
//
// Two layouts are read. Hugging Face: config.json with model.safetensors, or with
// model.safetensors.index.json and the shards that it names. Mistral: params.json with
// consolidated.safetensors, or with consolidated.safetensors.index.json and its shards. If a
// directory holds both layouts complete, as published Mistral repositories do, Hugging Face's files
// are read and Mistral's are ignored. Files are found by their fixed name or through the index,
// never by a glob over *.safetensors (model/checkpoint/weight_files.h).
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

// The two naming schemes of files and tensors.
enum class CheckpointLayout { kHuggingFace, kMistral };

// "hugging-face" or "mistral", for logs and the fingerprint.
absl::string_view LayoutName(CheckpointLayout layout);

// The tensor's name in the files of this layout, for example
// "model.layers.3.self_attn.q_proj.weight".
std::string StoredName(CheckpointLayout layout, TensorId id);

// File name of shard `shard`, in [0, n_shards); without numbers if n_shards is 1.
std::string SafetensorsName(CheckpointLayout layout, int shard, int n_shards);
// File name of the index, which lists the shard of every tensor.
std::string IndexName(CheckpointLayout layout);

// File name of the config: "config.json" or "params.json".
std::string ConfigName(CheckpointLayout layout);

// What a model directory says without its weights.
struct ModelDirectory {
  CheckpointLayout layout = CheckpointLayout::kHuggingFace;
  ModelConfig config;
};

// Reads only the config of the directory: enough to plan memory, or to serve dummy weights. Logs
// the config's notes. NOT_FOUND if `dir` is no directory or has neither config.json nor
// params.json; other errors as for ReadSmallFile, ParseHfConfig and ParseMistralParams.
absl::StatusOr<ModelDirectory> ReadModelDirectory(const std::string& dir);

// The place of one weight in the files. The pointers are valid as long as the Checkpoint.
struct StoredTensor {
  FileDType dtype = FileDType::kF32;  // F32, F16 or BF16
  const SafetensorsFile* file = nullptr;
  const TensorInfo* info = nullptr;  // one of file->tensors(); elements are row-major
  int64_t position = 0;  // first byte, counted over the data sections of all files in order
  // Rows of a head are pairs (0,1), (2,3), ... (Mistral's wq and wk).
  bool interleaved_rotary = false;
};

// An open checkpoint: all files are mapped, and every tensor of the model was found with the shape
// and an element type that the config allows. Immutable after construction; movable.
class Checkpoint {
 public:
  // Opens the directory. INVALID_ARGUMENT if the files do not fit the config; the message names the
  // file, the tensor and both numbers, or lists missing and unexpected tensors. Redundant tensors
  // are allowed (rotary_emb.inv_freq; a head equal to the embeddings it is tied to). NOT_FOUND if
  // there are no weights. File names in the index must be plain names inside the directory;
  // symbolic links are followed, since the Hugging Face cache consists of them.
  static absl::StatusOr<Checkpoint> Open(const std::string& dir);
  // The same with the result of ReadModelDirectory(dir).
  static absl::StatusOr<Checkpoint> Open(const std::string& dir, const ModelDirectory& directory);

  CheckpointLayout layout() const { return layout_; }
  const ModelConfig& config() const { return config_; }

  // The place of a weight of this config. For kOutput of a tied model that of kTokEmbeddings.
  // Aborts if the model has no such tensor (CHECK).
  StoredTensor Find(TensorId id) const;

  // Number of the model's tensors that are stored as `dtype`.
  int64_t CountStored(FileDType dtype) const;

  // A hash of the layout, the config, every tensor's name, dtype, shape and first, middle and last
  // 4 KiB, and of tokenizer.model if there is one. Cheap: 12 KiB per tensor. Equal on every host
  // with a copy and for every sharding of the same tensors; different for the two layouts of one
  // model. It detects mixed-up checkpoints before the weights are read; the WeightDigest covers
  // every byte afterwards.
  Fingerprint fingerprint() const { return fingerprint_; }

 private:
  Checkpoint() = default;

  // Indices of a tensor.
  struct Location {
    size_t file = 0;    // position in files_
    size_t tensor = 0;  // index in that file's tensors()
  };
  // Locations by a tensor's name.
  using Locations = absl::flat_hash_map<std::string, Location>;

  // Opens and maps the weight files in `dir`. Returns every tensor in them by stored name. The
  // index and the files must agree on every tensor.
  absl::StatusOr<Locations> MapFiles(const std::string& dir);
  // Appends a file to files_ and its first position to file_begins_.
  absl::Status AddFile(const std::string& path);
  // Fills by_name_ from `stored`. INVALID_ARGUMENT unless every tensor of the model is there and
  // every other stored tensor is redundant.
  absl::Status ResolveTensors(const std::string& dir, Locations stored);
  // INVALID_ARGUMENT unless shape and dtype of the stored tensor are as the config requires.
  absl::Status CheckStored(TensorId id, const Location& location) const;
  // INVALID_ARGUMENT unless the stored head equals the embeddings byte for byte.
  absl::Status CheckTiedHead(const std::string& dir, const Location& head) const;
  const TensorInfo& InfoAt(const Location& location) const {
    return files_[location.file].tensors()[location.tensor];
  }
  // Fills fingerprint_.
  absl::Status ComputeFingerprint(const std::string& dir);

  CheckpointLayout layout_ = CheckpointLayout::kHuggingFace;
  ModelConfig config_;
  std::vector<SafetensorsFile> files_;
  std::vector<int64_t> file_begins_;  // [files_.size()], see StoredTensor.position
  Locations by_name_;                 // by canonical name (TensorName)
  Fingerprint fingerprint_;
};

}  // namespace bora

#include "model/tools/make_checkpoint.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/bf16.h"
#include "base/host/unique_fd.h"
#include "base/int_math.h"
#include "base/number_formats.h"
#include "base/status_macros.h"
#include "model/checkpoint/dummy_weights.h"
#include "model/checkpoint/rotary_layout.h"
#include "model/checkpoint/weight_files.h"

namespace bora {
namespace {

// Elements that are generated and written at a time: 4 MiB of floats fit in a second-level cache.
constexpr int64_t kElementsPerBlock = int64_t{1} << 20;

// A new file. Creating fails if the file exists. Owned by one thread.
class FileWriter {
 public:
  // ALREADY_EXISTS or the system's error, with the path.
  static absl::StatusOr<FileWriter> Create(const std::string& path) {
    UniqueFd fd(open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644));
    if (!fd.valid()) return absl::ErrnoToStatus(errno, absl::StrCat(path, ": cannot create"));
    return FileWriter(path, std::move(fd));
  }

  // Appends n_bytes bytes; repeats short writes.
  absl::Status Write(const void* data, size_t n_bytes) {
    const char* next = static_cast<const char*>(data);
    while (n_bytes > 0) {
      const ssize_t n = write(fd_.get(), next, n_bytes);
      if (n < 0 && errno == EINTR) continue;
      if (n < 0) return absl::ErrnoToStatus(errno, absl::StrCat(path_, ": cannot write"));
      next += n;
      n_bytes -= static_cast<size_t>(n);
    }
    return absl::OkStatus();
  }

  // Call last: file systems may report a full disk only at close.
  absl::Status Close() {
    if (close(fd_.Release()) == 0) return absl::OkStatus();
    return absl::ErrnoToStatus(errno, absl::StrCat(path_, ": cannot close"));
  }

 private:
  FileWriter(std::string path, UniqueFd fd) : path_(std::move(path)), fd_(std::move(fd)) {}

  std::string path_;
  UniqueFd fd_;
};

// Writes a whole file.
absl::Status WriteTextFile(const std::string& path, const std::string& text) {
  ASSIGN_OR_RETURN(FileWriter writer, FileWriter::Create(path));
  RETURN_IF_ERROR(writer.Write(text.data(), text.size()));
  return writer.Close();
}

// Appends the values in the stored form of `dtype`, little-endian, which is this machine's byte
// order.
absl::Status WriteValues(const std::vector<float>& values, FileDType dtype, FileWriter& writer) {
  if (dtype == FileDType::kF32) return writer.Write(values.data(), values.size() * sizeof(float));
  std::vector<uint16_t> bits(values.size());
  for (size_t i = 0; i < values.size(); ++i) {
    bits[i] = dtype == FileDType::kF16 ? FloatToHalf(values[i]) : ToBf16(values[i]).bits;
  }
  return writer.Write(bits.data(), bits.size() * sizeof(uint16_t));
}

// Writes one tensor in blocks of rows, in the row order of the layout.
absl::Status WriteTensor(const DummyWeights& weights, TensorId id,
                         const MakeCheckpointOptions& options, FileWriter& writer) {
  const TensorShape shape = ShapeOf(weights.config(), id);
  const bool interleaved = options.layout == CheckpointLayout::kMistral &&
                           (id.kind == TensorKind::kWq || id.kind == TensorKind::kWk);
  const int64_t block_rows = std::max<int64_t>(1, kElementsPerBlock / shape.n_cols);
  std::vector<float> values;
  for (int64_t begin = 0; begin < shape.n_rows; begin += block_rows) {
    const int64_t end = std::min(begin + block_rows, shape.n_rows);
    values.resize((end - begin) * shape.n_cols);
    if (!interleaved) {
      RETURN_IF_ERROR(weights.ReadSlice(id, {begin, end, 0, shape.n_cols}, absl::MakeSpan(values)));
    }
    // Row `row` of an interleaved file holds another row of the half-rotation order, in which
    // DummyWeights gives wq and wk.
    for (int64_t row = begin; interleaved && row < end; ++row) {
      const int64_t source = HalfRotationRow(row, weights.config().head_dim);
      RETURN_IF_ERROR(weights.ReadSlice(
          id, {source, source + 1, 0, shape.n_cols},
          absl::MakeSpan(values).subspan((row - begin) * shape.n_cols, shape.n_cols)));
    }
    RETURN_IF_ERROR(WriteValues(values, options.dtype, writer));
  }
  return absl::OkStatus();
}

// Bytes of a tensor of this shape in the file.
int64_t StoredBytes(const TensorShape& shape, FileDType dtype) {
  return shape.n_rows * shape.n_cols * FileDTypeBytes(dtype);
}

// The header of one file, padded with spaces so that the data begins at a multiple of eight bytes.
std::string HeaderText(const ModelConfig& config, const std::vector<TensorId>& ids,
                       const MakeCheckpointOptions& options) {
  nlohmann::ordered_json header;
  // The loaders of the transformers library require this entry.
  header["__metadata__"] = {{"format", "pt"}};
  int64_t begin = 0;
  for (const TensorId id : ids) {
    const TensorShape shape = ShapeOf(config, id);
    const int64_t end = begin + StoredBytes(shape, options.dtype);
    nlohmann::ordered_json entry;
    entry["dtype"] = std::string(FileDTypeName(options.dtype));
    entry["shape"] = shape.is_vector ? std::vector<int64_t>{shape.n_cols}
                                     : std::vector<int64_t>{shape.n_rows, shape.n_cols};
    entry["data_offsets"] = std::vector<int64_t>{begin, end};
    header[StoredName(options.layout, id)] = std::move(entry);
    begin = end;
  }
  std::string text = header.dump();
  text.append(RoundUp(text.size(), 8) - text.size(), ' ');
  return text;
}

// Writes one safetensors file: header length, header, then the tensors in the order of `ids`.
absl::Status WriteShard(const DummyWeights& weights, const std::vector<TensorId>& ids,
                        const MakeCheckpointOptions& options, const std::string& path) {
  ASSIGN_OR_RETURN(FileWriter writer, FileWriter::Create(path));
  const std::string header = HeaderText(weights.config(), ids, options);
  const uint64_t header_bytes = header.size();
  RETURN_IF_ERROR(writer.Write(&header_bytes, sizeof(header_bytes)));
  RETURN_IF_ERROR(writer.Write(header.data(), header.size()));
  for (const TensorId id : ids) RETURN_IF_ERROR(WriteTensor(weights, id, options, writer));
  return writer.Close();
}

// Cuts the tensors, in order, into n_shards non-empty runs of about equal bytes.
std::vector<std::vector<TensorId>> AssignShards(const ModelConfig& config,
                                                const MakeCheckpointOptions& options) {
  const std::vector<TensorId> ids = AllTensors(config);
  const int64_t total_bytes = ParameterCount(config) * FileDTypeBytes(options.dtype);
  std::vector<std::vector<TensorId>> shards(options.n_shards);
  int64_t written = 0;
  size_t shard = 0;
  for (size_t i = 0; i < ids.size(); ++i) {
    const size_t n_later_shards = shards.size() - 1 - shard;
    const bool full =
        written >= CeilDiv(total_bytes, options.n_shards) * static_cast<int64_t>(shard + 1);
    // Every later shard needs at least one tensor.
    const bool must_leave_rest = ids.size() - i <= n_later_shards;
    if (!shards[shard].empty() && n_later_shards > 0 && (full || must_leave_rest)) ++shard;
    shards[shard].push_back(ids[i]);
    written += StoredBytes(ShapeOf(config, ids[i]), options.dtype);
  }
  return shards;
}

// INVALID_ARGUMENT unless the config is valid and the options are in range for it.
absl::Status CheckOptions(const ModelConfig& config, const MakeCheckpointOptions& options) {
  RETURN_IF_ERROR(Validate(config));
  if (!WeightTypeOf(options.dtype).has_value()) {
    return absl::InvalidArgumentError(
        absl::StrCat("dtype is ", FileDTypeName(options.dtype), ", must be F32, F16 or BF16"));
  }
  const auto n_tensors = static_cast<int>(AllTensors(config).size());
  const int max_shards = std::min(static_cast<int>(kMaxShards), n_tensors);
  if (options.n_shards < 1 || options.n_shards > max_shards) {
    return absl::InvalidArgumentError(absl::StrCat("number of shards is ", options.n_shards,
                                                   ", must be in [1, ", max_shards, "]"));
  }
  const bool needs_ids = options.layout == CheckpointLayout::kMistral;
  if (needs_ids && (config.bos_id != 1 || config.eos_ids != std::vector<int32_t>{2})) {
    return absl::InvalidArgumentError(
        "params.json cannot say that bos is not 1 or eos is not 2: use the Hugging Face layout");
  }
  return absl::OkStatus();
}

// Creates the folder `dir` if it does not exist; ALREADY_EXISTS if it is not empty.
absl::Status PrepareDirectory(const std::string& dir) {
  std::error_code error;
  std::filesystem::create_directories(dir, error);
  if (error) {
    return absl::ErrnoToStatus(error.value(), absl::StrCat(dir, ": cannot create the directory"));
  }
  const bool empty = std::filesystem::is_empty(dir, error);
  if (error) return absl::ErrnoToStatus(error.value(), absl::StrCat(dir, ": cannot read"));
  if (!empty) return absl::AlreadyExistsError(absl::StrCat(dir, ": directory is not empty"));
  return absl::OkStatus();
}

}  // namespace

absl::Status WriteRandomCheckpoint(const ModelConfig& config, const MakeCheckpointOptions& options,
                                   const std::string& dir) {
  RETURN_IF_ERROR(CheckOptions(config, options));
  RETURN_IF_ERROR(PrepareDirectory(dir));
  const DummyWeights weights(config, options.seed);
  const auto shards = AssignShards(config, options);
  nlohmann::ordered_json weight_map = nlohmann::ordered_json::object();
  for (int i = 0; i < options.n_shards; ++i) {
    const std::string name = SafetensorsName(options.layout, i, options.n_shards);
    for (const TensorId id : shards[i]) weight_map[StoredName(options.layout, id)] = name;
    RETURN_IF_ERROR(WriteShard(weights, shards[i], options, absl::StrCat(dir, "/", name)));
  }
  if (options.n_shards > 1) {
    nlohmann::ordered_json index;
    index["metadata"] = {{"total_size", ParameterCount(config) * FileDTypeBytes(options.dtype)}};
    index["weight_map"] = std::move(weight_map);
    RETURN_IF_ERROR(WriteTextFile(absl::StrCat(dir, "/", IndexName(options.layout)),
                                  absl::StrCat(index.dump(2), "\n")));
  }
  // The config comes last: a directory that has one is complete.
  const std::string torch_dtype(InfoOf(WeightTypeOf(options.dtype).value()).name);
  const std::string config_text = options.layout == CheckpointLayout::kHuggingFace
                                      ? ToHfConfigJson(config, torch_dtype)
                                      : ToMistralParamsJson(config);
  return WriteTextFile(absl::StrCat(dir, "/", ConfigName(options.layout)), config_text);
}

}  // namespace bora

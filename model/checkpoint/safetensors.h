// The safetensors file format: eight bytes of header length, a JSON header, then the bytes of all
// tensors. Every statement of the header is checked before it is used, since files come from third
// parties.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "base/host/unique_fd.h"
#include "base/number_formats.h"

namespace bora {

// Element types that a file may hold. Only F32, F16 and BF16 can be read as weights.
enum class FileDType : uint8_t {
  kBool,
  kU8,
  kI8,
  kF8E4M3,
  kF8E5M2,
  kU16,
  kI16,
  kF16,
  kBf16,
  kU32,
  kI32,
  kF32,
  kU64,
  kI64,
  kF64,
};

// The format's name of the type: "BF16", "F32" and so on.
absl::string_view FileDTypeName(FileDType dtype);
// Size of an element in bytes.
int64_t FileDTypeBytes(FileDType dtype);

// The type of weights that are stored as `dtype`; nullopt if it cannot be read as weights.
std::optional<DType> WeightTypeOf(FileDType dtype);
// How weights of type `dtype` are stored.
FileDType FileDTypeOf(DType dtype);

inline constexpr uint64_t kMaxSafetensorsHeaderBytes = 100'000'000;  // the format's own limit
// Limits of this reader, far above what the models here have: dimensions and bytes of the name of a
// tensor.
inline constexpr size_t kMaxTensorRank = 8;
inline constexpr size_t kMaxTensorNameBytes = 1024;

// One entry of the header. A plain value.
struct TensorInfo {
  std::string name;
  FileDType dtype = FileDType::kF32;
  std::vector<int64_t> shape;  // every dimension > 0; empty: a scalar
  uint64_t begin = 0;          // byte range [begin, end) of the data section
  uint64_t end = 0;
};

// A shape for messages: "[4096, 1024]".
std::string ShapeText(absl::Span<const int64_t> shape);

// A checked header.
struct SafetensorsHeader {
  uint64_t data_begin = 0;  // offset of the data section in the file, in bytes
  // Ascending by begin; they fill the data section without overlap or hole.
  std::vector<TensorInfo> tensors;
};

// Parses and checks the header of a whole file, given as bytes; reads only the header's bytes.
// INVALID_ARGUMENT names the tensor and both numbers. Memory used is proportional to the header.
absl::StatusOr<SafetensorsHeader> ParseSafetensorsHeader(absl::Span<const uint8_t> file_bytes);

// A safetensors file, open and mapped read-only. Immutable after construction; all methods are
// thread-safe. Spans from Bytes() are valid as long as the object, also after it is moved. The file
// must not be truncated while it is open: touching Bytes() past the new end raises SIGBUS, and
// ReadAt returns an error. Replace checkpoints by renaming, never in place.
//
// Use Bytes() for small reads only. A mapping reads a cold file at a third of the disk's speed,
// page fault by page fault, and its pages count as memory of this process. Weights are read with
// ReadAt.
class SafetensorsFile {
 public:
  // Opens and maps the file and parses its header. Errors begin with the path: NOT_FOUND if the
  // file does not exist, INVALID_ARGUMENT if it is no regular file or its header is wrong, other
  // codes for errors of the system.
  static absl::StatusOr<SafetensorsFile> Open(const std::string& path);

  SafetensorsFile(SafetensorsFile&& other) noexcept;
  SafetensorsFile& operator=(SafetensorsFile&& other) noexcept;
  ~SafetensorsFile();

  const std::string& path() const { return path_; }
  const std::vector<TensorInfo>& tensors() const { return header_.tensors; }
  // Size of the data section, which follows the header.
  int64_t data_bytes() const { return static_cast<int64_t>(map_bytes_ - header_.data_begin); }
  // The tensor of that name; nullptr if the file has none.
  const TensorInfo* Find(absl::string_view name) const;
  // All bytes of a tensor, through the mapping. REQUIRES: `tensor` is one of tensors().
  absl::Span<const uint8_t> Bytes(const TensorInfo& tensor) const;

  // Reads dst.size() bytes of `tensor`, from byte `offset` of it on, into `dst`. Any number of
  // threads. DATA_LOSS, with the path and the offset, if the file has become shorter or cannot be
  // read. REQUIRES: `tensor` is one of tensors(), and the range lies in it (CHECK).
  absl::Status ReadAt(const TensorInfo& tensor, int64_t offset, absl::Span<uint8_t> dst) const;

  // Tells the kernel that these bytes of the tensor will be read soon. Returns before they are
  // read. Advice only: errors are ignored.
  void WillRead(const TensorInfo& tensor, int64_t offset, int64_t n_bytes) const;

  // Tells the kernel that these bytes of the tensor need not stay in its page cache. Advice only.
  void HaveRead(const TensorInfo& tensor, int64_t offset, int64_t n_bytes) const;

  // Gives back the pages that reads through Bytes() have mapped into this process. A later access
  // maps them again.
  void ReleasePages() const;

 private:
  SafetensorsFile() = default;
  void Unmap();
  // Offset in the file of byte `offset` of the tensor.
  int64_t FileOffset(const TensorInfo& tensor, int64_t offset) const {
    return static_cast<int64_t>(header_.data_begin + tensor.begin) + offset;
  }

  std::string path_;
  UniqueFd fd_;
  const uint8_t* map_ = nullptr;
  uint64_t map_bytes_ = 0;
  SafetensorsHeader header_;
  absl::flat_hash_map<std::string, size_t> index_;  // from name to index in header_.tensors
};

}  // namespace bora

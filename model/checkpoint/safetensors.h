// The safetensors file format: eight bytes of header length, a JSON header, then raw tensor bytes.
// Everything the header says is checked before it is believed.
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

// Element types a file may hold; only F32, F16 and BF16 can be read as weights.
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

// "BF16", "F32", ...: the spelling of the format.
absl::string_view FileDTypeName(FileDType dtype);
int64_t FileDTypeBytes(FileDType dtype);

// The type of weights that are stored as `dtype`; nullopt if it cannot be read as weights.
std::optional<DType> WeightTypeOf(FileDType dtype);
// How weights of type `dtype` are stored.
FileDType FileDTypeOf(DType dtype);

inline constexpr uint64_t kMaxSafetensorsHeaderBytes = 100'000'000;  // the format's own limit
inline constexpr size_t kMaxTensorRank = 8;
inline constexpr size_t kMaxTensorNameBytes = 1024;

struct TensorInfo {
  std::string name;
  FileDType dtype = FileDType::kF32;
  std::vector<int64_t> shape;  // every dimension > 0; empty for a scalar
  uint64_t begin = 0;          // byte range inside the data section
  uint64_t end = 0;
};

// "[4096, 1024]"
std::string ShapeText(absl::Span<const int64_t> shape);

struct SafetensorsHeader {
  uint64_t data_begin = 0;          // where the data section starts in the file
  std::vector<TensorInfo> tensors;  // in the order of their bytes; no overlaps, no holes
};

// Parses and checks the header of a whole file given as bytes; only the header's bytes are touched.
// INVALID_ARGUMENT names the tensor and both numbers. Memory used is proportional to the header.
absl::StatusOr<SafetensorsHeader> ParseSafetensorsHeader(absl::Span<const uint8_t> file_bytes);

// A safetensors file, open and mapped read-only. Immutable after construction; Spans from Bytes()
// live as long as the object (moving it keeps them valid). The file must not be truncated while it
// is mapped: touching Bytes() past the new end raises SIGBUS, ReadAt returns an error. Replace
// checkpoints by renaming, never in place.
//
// Bytes() is for small looks. A mapping reads a cold file at a third of the disk's speed, page
// fault by page fault, and its pages count as this process's memory; weights are read with ReadAt.
class SafetensorsFile {
 public:
  // Maps the file and parses its header. Errors start with the path. NOT_FOUND when there is no
  // such file, INVALID_ARGUMENT when it is not a regular file or the header is wrong.
  static absl::StatusOr<SafetensorsFile> Open(const std::string& path);

  SafetensorsFile(SafetensorsFile&& other) noexcept;
  SafetensorsFile& operator=(SafetensorsFile&& other) noexcept;
  ~SafetensorsFile();

  const std::string& path() const { return path_; }
  const std::vector<TensorInfo>& tensors() const { return header_.tensors; }
  // Of the data section, behind the header.
  int64_t data_bytes() const { return static_cast<int64_t>(map_bytes_ - header_.data_begin); }
  // nullptr when the file has no tensor of that name.
  const TensorInfo* Find(absl::string_view name) const;
  // The tensor's bytes; `tensor` must be one of tensors().
  absl::Span<const uint8_t> Bytes(const TensorInfo& tensor) const;

  // dst <- the bytes from `offset` of the tensor, one of tensors(), on. Any number of threads.
  // DATA_LOSS names the path and the offset when the file has become shorter or cannot be read.
  absl::Status ReadAt(const TensorInfo& tensor, int64_t offset, absl::Span<uint8_t> dst) const;

  // Tells the kernel that these bytes of the tensor will be read soon, and returns before they are
  // there. Advice only.
  void WillRead(const TensorInfo& tensor, int64_t offset, int64_t n_bytes) const;

  // Tells the kernel that its copy of these bytes of the tensor is not worth keeping. Advice only.
  void HaveRead(const TensorInfo& tensor, int64_t offset, int64_t n_bytes) const;

  // Gives the pages that Bytes() has brought into this process back; they come again when touched.
  void ReleasePages() const;

 private:
  SafetensorsFile() = default;
  void Unmap();
  // Where byte `offset` of the tensor lies in the file.
  int64_t FileOffset(const TensorInfo& tensor, int64_t offset) const {
    return static_cast<int64_t>(header_.data_begin + tensor.begin) + offset;
  }

  std::string path_;
  UniqueFd fd_;
  const uint8_t* map_ = nullptr;
  uint64_t map_bytes_ = 0;
  SafetensorsHeader header_;
  absl::flat_hash_map<std::string, size_t> index_;  // name to position in header_.tensors
};

}  // namespace bora

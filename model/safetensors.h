// The safetensors file format: eight bytes of header length, a JSON header, then raw tensor bytes.
// Everything the header says is checked before it is believed.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"

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

// A safetensors file mapped read-only. Immutable after construction; Spans from Bytes() live as
// long as the object (moving it keeps them valid). The file must not be truncated while it is
// mapped: reading past the new end raises SIGBUS. Replace checkpoints by renaming, never in place.
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
  // nullptr when the file has no tensor of that name.
  const TensorInfo* Find(absl::string_view name) const;
  // The tensor's bytes; `tensor` must be one of tensors().
  absl::Span<const uint8_t> Bytes(const TensorInfo& tensor) const;

 private:
  SafetensorsFile() = default;
  void Unmap();

  std::string path_;
  const uint8_t* map_ = nullptr;
  uint64_t map_bytes_ = 0;
  SafetensorsHeader header_;
  absl::flat_hash_map<std::string, size_t> index_;  // name to position in header_.tensors
};

}  // namespace bora

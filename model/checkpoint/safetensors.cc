#include "model/checkpoint/safetensors.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>

#include "absl/container/flat_hash_set.h"
#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/check.h"
#include "base/host/unique_fd.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "model/git_lfs.h"

namespace bora {
namespace {

// Limit of the tensors of a file: ten times the need of the largest config that Validate() accepts
// (1024 layers of 9 tensors), so that a hostile header cannot make the list large.
constexpr size_t kMaxTensors = 100'000;

struct FileDTypeInfo {
  const char* name;
  FileDType dtype;
  int64_t bytes;
  std::optional<DType> weights = std::nullopt;  // what can be read as weights
};

constexpr FileDTypeInfo kFileDTypes[] = {{"BOOL", FileDType::kBool, 1},
                                         {"U8", FileDType::kU8, 1},
                                         {"I8", FileDType::kI8, 1},
                                         {"F8_E4M3", FileDType::kF8E4M3, 1},
                                         {"F8_E5M2", FileDType::kF8E5M2, 1},
                                         {"U16", FileDType::kU16, 2},
                                         {"I16", FileDType::kI16, 2},
                                         {"F16", FileDType::kF16, 2, DType::kF16},
                                         {"BF16", FileDType::kBf16, 2, DType::kBf16},
                                         {"U32", FileDType::kU32, 4},
                                         {"I32", FileDType::kI32, 4},
                                         {"F32", FileDType::kF32, 4, DType::kF32},
                                         {"U64", FileDType::kU64, 8},
                                         {"I64", FileDType::kI64, 8},
                                         {"F64", FileDType::kF64, 8}};

const FileDTypeInfo& EntryOf(FileDType dtype) {
  for (const FileDTypeInfo& entry : kFileDTypes) {
    if (entry.dtype == dtype) return entry;
  }
  CHECK(false) << "dtype " << static_cast<int>(dtype);
  return kFileDTypes[0];
}

// Text from the file in quotes, cut to 120 bytes, for a message.
std::string Quoted(absl::string_view text) {
  constexpr size_t kMaxShown = 120;
  if (text.size() <= kMaxShown) return JsonQuote(text);
  return absl::StrCat(JsonQuote(text.substr(0, kMaxShown)), "...");
}

// Receives the header's JSON as parse events and keeps only the tensors: a document tree of a
// hostile header of 100 MB would take gigabytes. A callback that returns false stops the parser;
// status_ then holds the error. Owned by one thread.
class HeaderHandler {
 public:
  absl::Status TakeStatus() { return std::move(status_); }
  std::vector<TensorInfo> TakeTensors() { return std::move(tensors_); }

  // Callbacks of nlohmann::json's SAX interface. The first five are for values that the format
  // allows nowhere.
  bool null() { return Unexpected("null"); }
  bool boolean(bool) { return Unexpected("a boolean"); }
  bool number_integer(int64_t value) { return Unexpected(absl::StrCat("the number ", value)); }
  bool number_float(double, const std::string& text) {
    return Unexpected(absl::StrCat("the number ", text.substr(0, 40)));
  }
  bool binary(std::vector<uint8_t>&) { return Unexpected("binary data"); }

  bool number_unsigned(uint64_t value) {
    if (place_ == Place::kShape) {
      if (tensor_.shape.size() == kMaxTensorRank) {
        return Fail(absl::StrCat("has more than ", kMaxTensorRank, " dimensions"));
      }
      if (value == 0) {
        return Fail(absl::StrCat("dimension ", tensor_.shape.size(), " of its shape is 0"));
      }
      if (value > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
        return Fail(absl::StrCat("dimension ", value, " is larger than 2^63 - 1"));
      }
      tensor_.shape.push_back(static_cast<int64_t>(value));
      return true;
    }
    if (place_ == Place::kOffsets) {
      if (n_offsets_ == 2) return Fail("data_offsets has more than 2 numbers");
      (n_offsets_ == 0 ? tensor_.begin : tensor_.end) = value;
      ++n_offsets_;
      return true;
    }
    return Unexpected(absl::StrCat("the number ", value));
  }

  // Strings are allowed in __metadata__, whose contents are ignored, and as dtype.
  bool string(std::string& value) {
    if (place_ == Place::kMetadata) return true;
    if (place_ != Place::kTensor || field_ != "dtype") return Unexpected("a string");
    for (const FileDTypeInfo& entry : kFileDTypes) {
      if (value == entry.name) {
        tensor_.dtype = entry.dtype;
        return true;
      }
    }
    return Fail(absl::StrCat("dtype ", Quoted(value), " is not known"));
  }

  bool start_object(size_t) {
    if (place_ == Place::kStart) {
      place_ = Place::kTensors;
      return true;
    }
    if (place_ != Place::kTensors) return Unexpected("an object");
    place_ = tensor_.name == "__metadata__" ? Place::kMetadata : Place::kTensor;
    fields_.clear();
    field_.clear();
    n_offsets_ = 0;
    return true;
  }

  bool key(std::string& key) {
    if (place_ == Place::kTensors) return StartTensor(key);
    if (!fields_.insert(key).second) return Fail(absl::StrCat("key ", Quoted(key), " twice"));
    if (place_ == Place::kMetadata) return true;
    if (key != "dtype" && key != "shape" && key != "data_offsets") {
      return Fail(absl::StrCat("has the unknown field ", Quoted(key)));
    }
    field_ = key;
    return true;
  }

  bool end_object() {
    if (place_ == Place::kTensor) {
      for (const char* field : {"dtype", "shape", "data_offsets"}) {
        if (!fields_.contains(field)) return Fail(absl::StrCat("has no ", field));
      }
      tensors_.push_back(std::move(tensor_));
    }
    if (place_ == Place::kTensors) {
      place_ = Place::kEnd;
      return true;
    }
    place_ = Place::kTensors;
    tensor_ = TensorInfo();
    return true;
  }

  bool start_array(size_t) {
    if (place_ != Place::kTensor || field_ == "dtype") return Unexpected("an array");
    place_ = field_ == "shape" ? Place::kShape : Place::kOffsets;
    return true;
  }

  bool end_array() {
    if (place_ == Place::kOffsets && n_offsets_ != 2) {
      return Fail(absl::StrCat("data_offsets has ", n_offsets_, " numbers, must have 2"));
    }
    place_ = Place::kTensor;
    return true;
  }

  bool parse_error(size_t position, const std::string&, const nlohmann::json::exception& error) {
    status_ = absl::InvalidArgumentError(
        absl::StrCat("header is not valid JSON at byte ", position, ": ", error.what()));
    return false;
  }

 private:
  // Position of the parser in the header: before it, in the top object, in a tensor's object, in
  // its shape, in its data_offsets, in __metadata__, after the end.
  enum class Place { kStart, kTensors, kTensor, kShape, kOffsets, kMetadata, kEnd };

  bool StartTensor(const std::string& name) {
    tensor_ = TensorInfo();
    tensor_.name = name;
    if (name.size() > kMaxTensorNameBytes) {
      return Fail(
          absl::StrCat("name of ", name.size(), " bytes, the limit is ", kMaxTensorNameBytes));
    }
    if (!names_.insert(name).second) return Fail("appears twice");
    if (names_.size() > kMaxTensors) {
      return Fail(absl::StrCat("more than ", kMaxTensors, " tensors"));
    }
    return true;
  }

  bool Fail(absl::string_view problem) {
    status_ =
        absl::InvalidArgumentError(absl::StrCat("tensor ", Quoted(tensor_.name), ": ", problem));
    return false;
  }

  bool Unexpected(absl::string_view what) {
    switch (place_) {
      case Place::kShape:
        return Fail(absl::StrCat("shape holds ", what));
      case Place::kOffsets:
        return Fail(absl::StrCat("data_offsets holds ", what));
      case Place::kTensor:
        return Fail(absl::StrCat(field_, " is ", what));
      case Place::kMetadata:
        return Fail(absl::StrCat("holds ", what, ", only strings are allowed"));
      default:
        return Fail(absl::StrCat("is ", what, ", must be an object"));
    }
  }

  Place place_ = Place::kStart;
  TensorInfo tensor_;  // the one being read
  std::string field_;  // the key whose value comes next, inside a tensor's object
  int n_offsets_ = 0;  // numbers of data_offsets read so far
  absl::flat_hash_set<std::string> fields_;  // keys of the current object so far
  absl::flat_hash_set<std::string> names_;   // names of all tensors so far
  std::vector<TensorInfo> tensors_;
  absl::Status status_;
};

absl::Status TensorError(const TensorInfo& tensor, absl::string_view problem) {
  return absl::InvalidArgumentError(absl::StrCat("tensor ", Quoted(tensor.name), ": ", problem));
}

// INVALID_ARGUMENT unless the byte range lies in the data section and is exactly as long as dtype
// and shape require.
absl::Status CheckRange(const TensorInfo& tensor, uint64_t data_bytes) {
  if (tensor.begin > tensor.end) {
    return TensorError(tensor,
                       absl::StrCat("begins at byte ", tensor.begin, " but ends at ", tensor.end));
  }
  if (tensor.end > data_bytes) {
    return TensorError(tensor,
                       absl::StrCat("ends at byte ", tensor.end, ", the data has ", data_bytes));
  }
  uint64_t n_bytes = static_cast<uint64_t>(FileDTypeBytes(tensor.dtype));
  for (const int64_t n : tensor.shape) {
    if (__builtin_mul_overflow(n_bytes, static_cast<uint64_t>(n), &n_bytes)) {
      return TensorError(tensor, absl::StrCat(FileDTypeName(tensor.dtype), " of shape ",
                                              ShapeText(tensor.shape), " overflows 64 bits"));
    }
  }
  if (n_bytes != tensor.end - tensor.begin) {
    return TensorError(
        tensor,
        absl::StrCat(FileDTypeName(tensor.dtype), " of shape ", ShapeText(tensor.shape), " takes ",
                     n_bytes, " bytes, data_offsets say ", tensor.end - tensor.begin));
  }
  return absl::OkStatus();
}

// INVALID_ARGUMENT unless the ranges, sorted by their begin, follow each other without gap or
// overlap and fill the data section.
absl::Status CheckCoverage(const std::vector<TensorInfo>& tensors, uint64_t data_bytes) {
  uint64_t expected = 0;
  for (const TensorInfo& tensor : tensors) {
    if (tensor.begin < expected) {
      return TensorError(tensor, absl::StrCat("begins at byte ", tensor.begin,
                                              " and overlaps the tensor that ends at ", expected));
    }
    if (tensor.begin > expected) {
      return TensorError(tensor, absl::StrCat("begins at byte ", tensor.begin,
                                              ", which leaves a hole from ", expected));
    }
    expected = tensor.end;
  }
  if (expected != data_bytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("the tensors end at byte ", expected, " of the data, which has ", data_bytes));
  }
  return absl::OkStatus();
}

}  // namespace

absl::string_view FileDTypeName(FileDType dtype) { return EntryOf(dtype).name; }

int64_t FileDTypeBytes(FileDType dtype) { return EntryOf(dtype).bytes; }

std::optional<DType> WeightTypeOf(FileDType dtype) { return EntryOf(dtype).weights; }

FileDType FileDTypeOf(DType dtype) {
  for (const FileDTypeInfo& entry : kFileDTypes) {
    if (entry.weights == dtype) return entry.dtype;
  }
  CHECK(false) << InfoOf(dtype).name << " is stored in no way";
  return FileDType::kF32;
}

std::string ShapeText(absl::Span<const int64_t> shape) {
  return absl::StrCat("[", absl::StrJoin(shape, ", "), "]");
}

absl::StatusOr<SafetensorsHeader> ParseSafetensorsHeader(absl::Span<const uint8_t> file_bytes) {
  constexpr uint64_t kLengthBytes = 8;
  if (file_bytes.size() < kLengthBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("file of ", file_bytes.size(), " bytes has no room for the header length"));
  }
  if (IsGitLfsPointer({reinterpret_cast<const char*>(file_bytes.data()), file_bytes.size()})) {
    return GitLfsPointerError();
  }
  uint64_t header_bytes = 0;  // stored little-endian
  for (int i = 0; i < 8; ++i) header_bytes |= static_cast<uint64_t>(file_bytes[i]) << 8 * i;
  if (header_bytes > kMaxSafetensorsHeaderBytes) {
    return absl::InvalidArgumentError(absl::StrCat("header length is ", header_bytes,
                                                   ", the limit is ", kMaxSafetensorsHeaderBytes));
  }
  if (header_bytes > file_bytes.size() - kLengthBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("header length is ", header_bytes, ", the file has ",
                     file_bytes.size() - kLengthBytes, " bytes left"));
  }
  const char* const text = reinterpret_cast<const char*>(file_bytes.data()) + kLengthBytes;
  if (header_bytes == 0 || text[0] != '{') {
    return absl::InvalidArgumentError(
        absl::StrCat("header of ", header_bytes, " bytes does not start with '{'"));
  }
  // The JSON parser takes a NUL for the end of its input, and would ignore everything after it.
  if (std::memchr(text, '\0', header_bytes) != nullptr) {
    return absl::InvalidArgumentError("header is not valid JSON: it holds a NUL byte");
  }
  HeaderHandler handler;
  const bool parsed = nlohmann::json::sax_parse(text, text + header_bytes, &handler);
  if (!parsed) return handler.TakeStatus();
  SafetensorsHeader header;
  header.data_begin = kLengthBytes + header_bytes;
  header.tensors = handler.TakeTensors();
  const uint64_t data_bytes = file_bytes.size() - header.data_begin;
  for (const TensorInfo& tensor : header.tensors) RETURN_IF_ERROR(CheckRange(tensor, data_bytes));
  std::stable_sort(header.tensors.begin(), header.tensors.end(),
                   [](const TensorInfo& a, const TensorInfo& b) { return a.begin < b.begin; });
  RETURN_IF_ERROR(CheckCoverage(header.tensors, data_bytes));
  return header;
}

absl::StatusOr<SafetensorsFile> SafetensorsFile::Open(const std::string& path) {
  // O_NONBLOCK: opening a named pipe must not wait for a writer.
  UniqueFd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (!fd.valid()) return absl::ErrnoToStatus(errno, absl::StrCat(path, ": cannot open"));
  struct stat info;
  if (fstat(fd.get(), &info) != 0) {
    return absl::ErrnoToStatus(errno, absl::StrCat(path, ": cannot stat"));
  }
  if (!S_ISREG(info.st_mode)) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": not a regular file"));
  }
  if (info.st_size == 0) return absl::InvalidArgumentError(absl::StrCat(path, ": file is empty"));
  SafetensorsFile file;
  file.path_ = path;
  file.map_bytes_ = static_cast<uint64_t>(info.st_size);
  void* const map = mmap(nullptr, file.map_bytes_, PROT_READ, MAP_PRIVATE, fd.get(), 0);
  if (map == MAP_FAILED) return absl::ErrnoToStatus(errno, absl::StrCat(path, ": cannot map"));
  file.map_ = static_cast<const uint8_t*>(map);
  file.fd_ = std::move(fd);
  // Reads through the mapping are small and far apart: readahead would cost more than the reads
  // themselves.
  madvise(map, file.map_bytes_, MADV_RANDOM);
  absl::StatusOr<SafetensorsHeader> header =
      ParseSafetensorsHeader(absl::MakeConstSpan(file.map_, file.map_bytes_));
  if (!header.ok()) return Annotate(header.status(), path);
  file.header_ = *std::move(header);
  for (size_t i = 0; i < file.header_.tensors.size(); ++i) {
    file.index_.emplace(file.header_.tensors[i].name, i);
  }
  return file;
}

SafetensorsFile::SafetensorsFile(SafetensorsFile&& other) noexcept { *this = std::move(other); }

SafetensorsFile& SafetensorsFile::operator=(SafetensorsFile&& other) noexcept {
  if (this == &other) return *this;
  Unmap();
  path_ = std::move(other.path_);
  fd_ = std::move(other.fd_);
  map_ = std::exchange(other.map_, nullptr);
  map_bytes_ = std::exchange(other.map_bytes_, 0);
  header_ = std::move(other.header_);
  index_ = std::move(other.index_);
  return *this;
}

SafetensorsFile::~SafetensorsFile() { Unmap(); }

void SafetensorsFile::Unmap() {
  if (map_ != nullptr) munmap(const_cast<uint8_t*>(map_), map_bytes_);
  map_ = nullptr;
}

const TensorInfo* SafetensorsFile::Find(absl::string_view name) const {
  const auto it = index_.find(name);
  return it == index_.end() ? nullptr : &header_.tensors[it->second];
}

absl::Span<const uint8_t> SafetensorsFile::Bytes(const TensorInfo& tensor) const {
  const uint64_t begin = header_.data_begin + tensor.begin;
  CHECK(tensor.begin <= tensor.end && header_.data_begin + tensor.end <= map_bytes_)
      << path_ << ": tensor " << tensor.name << " is not one of this file";
  return absl::MakeConstSpan(map_ + begin, tensor.end - tensor.begin);
}

absl::Status SafetensorsFile::ReadAt(const TensorInfo& tensor, int64_t offset,
                                     absl::Span<uint8_t> dst) const {
  CHECK(offset >= 0 && offset + dst.size() <= tensor.end - tensor.begin)
      << path_ << ": tensor " << tensor.name << ": bytes " << offset << " + " << dst.size()
      << " of " << tensor.end - tensor.begin;
  int64_t at = FileOffset(tensor, offset);
  while (!dst.empty()) {
    const ssize_t n = pread(fd_.get(), dst.data(), dst.size(), at);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) {
      return absl::DataLossError(
          absl::StrCat(path_, ": tensor ", tensor.name, ": cannot read byte ", at, ": ",
                       n == 0 ? "the file has become shorter" : strerror(errno)));
    }
    dst.remove_prefix(static_cast<size_t>(n));
    at += n;
  }
  return absl::OkStatus();
}

void SafetensorsFile::WillRead(const TensorInfo& tensor, int64_t offset, int64_t n_bytes) const {
  posix_fadvise(fd_.get(), FileOffset(tensor, offset), n_bytes, POSIX_FADV_WILLNEED);
}

void SafetensorsFile::HaveRead(const TensorInfo& tensor, int64_t offset, int64_t n_bytes) const {
  posix_fadvise(fd_.get(), FileOffset(tensor, offset), n_bytes, POSIX_FADV_DONTNEED);
}

void SafetensorsFile::ReleasePages() const {
  madvise(const_cast<uint8_t*>(map_), map_bytes_, MADV_DONTNEED);
}

}  // namespace bora

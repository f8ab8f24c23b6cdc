#include "coordinator/grpc/request_compression.h"

#include <zlib.h>

#include <algorithm>
#include <string>
#include <vector>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "coordinator/api/api_errors.h"
#include "coordinator/api/violations.h"

namespace bora {
namespace {

constexpr uint8_t kGzipMagic[] = {0x1f, 0x8b};
// The output buffer grows by pieces of this size, and most prompts fit one. The content's size is
// not known before it is inflated: the size in a gzip stream is the sender's claim, at its end.
constexpr size_t kPieceBytes = 64 << 10;
// zlib's windowBits: 15 for the largest window, plus 16 for a gzip header instead of zlib's own.
constexpr int kGzipWindowBits = 15 + 16;

ApiError BrokenGzip(size_t n_bytes) {
  Violations violations;
  violations.AddInvalid("(message)", absl::StrCat(n_bytes, " bytes that begin as gzip does"),
                        "one whole gzip stream, or not compressed");
  return violations.TakeError();
}

}  // namespace

bool IsGzip(const grpc::ByteBuffer& bytes) {
  std::vector<grpc::Slice> slices;
  if (bytes.Length() < sizeof(kGzipMagic) || !bytes.Dump(&slices).ok()) return false;
  size_t n_equal = 0;
  for (const grpc::Slice& slice : slices) {
    for (size_t i = 0; i < slice.size() && n_equal < sizeof(kGzipMagic); ++i, ++n_equal) {
      if (slice.begin()[i] != kGzipMagic[n_equal]) return false;
    }
  }
  return n_equal == sizeof(kGzipMagic);
}

std::optional<ApiError> Inflate(int64_t limit_bytes, grpc::ByteBuffer* bytes) {
  std::vector<grpc::Slice> compressed;
  if (!bytes->Dump(&compressed).ok()) return BrokenGzip(bytes->Length());
  z_stream stream = {};
  CHECK_EQ(inflateInit2(&stream, kGzipWindowBits), Z_OK);
  const absl::Cleanup end = [&stream] { inflateEnd(&stream); };
  std::string plain;
  int result = Z_OK;
  for (const grpc::Slice& slice : compressed) {
    // zlib does not write to its input.
    stream.next_in = const_cast<Bytef*>(slice.begin());
    stream.avail_in = static_cast<uInt>(slice.size());
    do {
      const size_t n_before = plain.size();
      // Room for one byte beyond the limit: if it is used, the content exceeds the limit.
      const size_t n_room = std::min(kPieceBytes, static_cast<size_t>(limit_bytes) + 1 - n_before);
      plain.resize(n_before + n_room);
      stream.next_out = reinterpret_cast<Bytef*>(plain.data() + n_before);
      stream.avail_out = static_cast<uInt>(n_room);
      result = inflate(&stream, Z_NO_FLUSH);
      if (result == Z_BUF_ERROR) result = Z_OK;  // no progress without the next slice
      plain.resize(n_before + n_room - stream.avail_out);
      if (static_cast<int64_t>(plain.size()) > limit_bytes) {
        return MessageTooLarge(limit_bytes + 1, /*exact=*/false);
      }
      // If the output buffer is full, zlib may have output left from input that it has consumed.
    } while (result == Z_OK && (stream.avail_in > 0 || stream.avail_out == 0));
    if (result != Z_OK && (result != Z_STREAM_END || stream.avail_in > 0)) {
      return BrokenGzip(bytes->Length());
    }
  }
  if (result != Z_STREAM_END) return BrokenGzip(bytes->Length());
  grpc::Slice slice(plain);
  *bytes = grpc::ByteBuffer(&slice, 1);
  return std::nullopt;
}

}  // namespace bora

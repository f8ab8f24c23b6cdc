#include "coordinator/grpc/request_compression.h"

#include <gtest/gtest.h>
#include <zlib.h>

#include <random>
#include <string>
#include <vector>

#include "base/check.h"

namespace bora {
namespace {

std::string Gzip(const std::string& text) {
  z_stream stream = {};
  CHECK_EQ(deflateInit2(&stream, Z_BEST_SPEED, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY), Z_OK);
  std::string out(deflateBound(&stream, text.size()), '\0');
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(text.data()));
  stream.avail_in = static_cast<uInt>(text.size());
  stream.next_out = reinterpret_cast<Bytef*>(out.data());
  stream.avail_out = static_cast<uInt>(out.size());
  CHECK_EQ(deflate(&stream, Z_FINISH), Z_STREAM_END);
  out.resize(stream.total_out);
  deflateEnd(&stream);
  return out;
}

// In slices of at most slice_bytes, as they come from a connection.
grpc::ByteBuffer Sliced(const std::string& bytes, size_t slice_bytes) {
  std::vector<grpc::Slice> slices;
  for (size_t i = 0; i < bytes.size(); i += slice_bytes) {
    slices.emplace_back(bytes.substr(i, slice_bytes));
  }
  return grpc::ByteBuffer(slices.data(), slices.size());
}

std::string Bytes(const grpc::ByteBuffer& buffer) {
  grpc::Slice slice;
  CHECK(buffer.DumpToSingleSlice(&slice).ok());
  return std::string(reinterpret_cast<const char*>(slice.begin()), slice.size());
}

TEST(RequestCompressionTest, GivesWhatWasCompressed) {
  std::mt19937 random(11);
  for (const size_t n_bytes : {0, 1, 100, 65'535, 65'536, 65'537, 131'072, 300'000}) {
    for (const int n_letters : {1, 2, 256}) {
      std::string text(n_bytes, '\0');
      for (char& c : text) c = static_cast<char>(random() % n_letters);
      for (const size_t slice_bytes : {size_t{1}, size_t{7}, size_t{8192}, size_t{1} << 20}) {
        if (slice_bytes == 1 && n_bytes > 70'000) continue;  // too many slices to be quick
        grpc::ByteBuffer buffer = Sliced(Gzip(text), slice_bytes);
        ASSERT_TRUE(IsGzip(buffer));
        ASSERT_FALSE(Inflate(static_cast<int64_t>(n_bytes), &buffer).has_value());
        EXPECT_EQ(Bytes(buffer), text);
      }
    }
  }
}

TEST(RequestCompressionTest, StopsAtTheLimit) {
  const std::string bomb = Gzip(std::string(100'000, '\0'));
  grpc::ByteBuffer buffer = Sliced(bomb, 50);
  const std::optional<ApiError> error = Inflate(99'999, &buffer);
  ASSERT_TRUE(error.has_value());
  EXPECT_EQ(error->code, absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(error->reason, reason::kLimitExceeded);
}

TEST(RequestCompressionTest, RefusesWhatIsNoWholeStream) {
  const std::string whole = Gzip("To be, or not to be");
  for (size_t n_bytes = 2; n_bytes < whole.size(); ++n_bytes) {
    grpc::ByteBuffer buffer = Sliced(whole.substr(0, n_bytes), 5);
    ASSERT_TRUE(IsGzip(buffer));
    const std::optional<ApiError> error = Inflate(1000, &buffer);
    ASSERT_TRUE(error.has_value()) << n_bytes;
    EXPECT_EQ(error->reason, reason::kInvalidField);
  }
  std::mt19937 random(12);
  for (int i = 0; i < 2000; ++i) {
    std::string broken = whole;
    // Behind the header, whose time and system mean nothing.
    broken[10 + random() % (broken.size() - 10)] ^= static_cast<char>(1 + random() % 255);
    grpc::ByteBuffer buffer = Sliced(broken, 1 + random() % 9);
    EXPECT_TRUE(Inflate(1000, &buffer).has_value());
  }
  grpc::ByteBuffer longer = Sliced(whole + "x", 1000);
  EXPECT_TRUE(Inflate(1000, &longer).has_value());
}

TEST(RequestCompressionTest, ShortMessagesAreNotCompressed) {
  for (const char* bytes : {"", "\x1f", "\x1f\x8a", "\x0a\x8b", "ab"}) {
    EXPECT_FALSE(IsGzip(Sliced(bytes, 1)));
  }
}

}  // namespace
}  // namespace bora

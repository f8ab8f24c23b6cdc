#include "worker/weights/aligned_buffer.h"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <utility>
#include <vector>

namespace bora {
namespace {

constexpr int64_t kMib = int64_t{1} << 20;

bool IsZero(const AlignedBuffer& buffer) {
  return std::all_of(buffer.data(), buffer.data() + buffer.bytes(),
                     [](uint8_t b) { return b == 0; });
}

// Pages of the buffer that are in memory.
int64_t ResidentPages(const AlignedBuffer& buffer) {
  const int64_t page_bytes = sysconf(_SC_PAGESIZE);
  std::vector<unsigned char> pages(
      static_cast<size_t>((buffer.bytes() + page_bytes - 1) / page_bytes));
  EXPECT_EQ(mincore(buffer.data(), static_cast<size_t>(buffer.bytes()), pages.data()), 0);
  return std::count_if(pages.begin(), pages.end(),
                       [](unsigned char page) { return (page & 1) != 0; });
}

TEST(AlignedBufferTest, IsAlignedAndZero) {
  for (const int64_t bytes : {int64_t{1}, int64_t{100}, 2 * kMib - 1, 2 * kMib, 5 * kMib + 3}) {
    const auto buffer = AlignedBuffer::Allocate(bytes, "test");
    ASSERT_TRUE(buffer.ok()) << buffer.status();
    EXPECT_EQ(buffer->bytes(), bytes);
    const int64_t alignment = bytes >= 2 * kMib ? 2 * kMib : 64;
    EXPECT_EQ(reinterpret_cast<uintptr_t>(buffer->data()) % alignment, 0u) << bytes;
    EXPECT_TRUE(IsZero(*buffer)) << bytes;
    buffer->data()[bytes - 1] = 1;
  }
  EXPECT_EQ(AlignedBuffer::Allocate(0, "test")->data(), nullptr);
}

TEST(AlignedBufferTest, PopulatedMemoryIsThereBeforeItIsTouched) {
  constexpr int64_t kBytes = 130 * kMib + 5;  // three parts for the populating threads
  auto buffer = AlignedBuffer::AllocatePopulated(kBytes, "test");
  ASSERT_TRUE(buffer.ok()) << buffer.status();
  EXPECT_EQ(ResidentPages(*buffer), (kBytes + sysconf(_SC_PAGESIZE) - 1) / sysconf(_SC_PAGESIZE));
  EXPECT_TRUE(IsZero(*buffer));
  const AlignedBuffer moved = *std::move(buffer);
  EXPECT_EQ(moved.bytes(), kBytes);
  EXPECT_TRUE(AlignedBuffer::AllocatePopulated(100, "test").ok());
  EXPECT_TRUE(AlignedBuffer::AllocatePopulated(0, "test").ok());
}

TEST(AlignedBufferTest, MemoryThatDoesNotExistIsNamed) {
  for (const int64_t bytes : {int64_t{1} << 55, INT64_MAX}) {
    const auto buffer = AlignedBuffer::Allocate(bytes, "weights");
    EXPECT_EQ(buffer.status().code(), absl::StatusCode::kResourceExhausted);
    EXPECT_EQ(buffer.status().message().find("weights: "), 0u) << buffer.status();
  }
}

}  // namespace
}  // namespace bora

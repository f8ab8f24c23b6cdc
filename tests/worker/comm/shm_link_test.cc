// What one end of a shared memory link makes of nonsense written by the other.
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/socket.h>

#include <vector>

#include "base/check.h"
#include "worker/comm/link/link.h"
#include "worker/comm/link/shared_ring.h"
#include "worker/comm/link/socket_util.h"

namespace bora {
namespace {

constexpr int64_t kRingBytes = 4096;

// Rank 0's end of a link with rank 1, whose end of the memory the test writes by hand.
class ShmLinkTest : public testing::Test {
 protected:
  ShmLinkTest() {
    const absl::StatusOr<UniqueFd> memory = SharedMapping::CreateMemory(kRingBytes);
    CHECK_OK(memory.status());
    peer_ = *SharedMapping::Map(memory->get(), kRingBytes);
    int sockets[2];
    CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets), 0);
    peer_socket_ = UniqueFd(sockets[1]);
    EstablishedLink established;
    established.peer = 1;
    established.kind = LinkKind::kSharedMemory;
    established.socket = UniqueFd(sockets[0]);
    established.mapping = *SharedMapping::Map(memory->get(), kRingBytes);
    established.peer_doorbell = *NewEventFd();
    link_ = NewShmLink(0, "rank 1 (test)", std::move(established));
  }

  int64_t Send(size_t n) { return Move(n, /*sends=*/true); }
  int64_t Recv(size_t n) { return Move(n, /*sends=*/false); }
  int64_t Move(size_t n, bool sends) {
    buffer_.resize(n);
    const iovec part = {buffer_.data(), n};
    const absl::Span<const iovec> parts = absl::MakeConstSpan(&part, 1);
    return sends ? link_->TrySend(parts) : link_->TryRecv(parts);
  }

  SharedMapping peer_;
  UniqueFd peer_socket_;
  std::unique_ptr<Link> link_;
  std::vector<uint8_t> buffer_;
};

TEST_F(ShmLinkTest, MovesNoMoreThanTheRingHolds) {
  EXPECT_EQ(Send(10000), kRingBytes);
  EXPECT_EQ(Send(1), 0);
  peer_.header()->rings[0].n_read.store(100);
  EXPECT_EQ(Send(10000), 100);
  peer_.header()->rings[1].n_written.store(60);
  EXPECT_EQ(Recv(50), 50);
  EXPECT_EQ(Recv(50), 10);
  EXPECT_EQ(link_->state(), LinkState::kUp);
}

TEST_F(ShmLinkTest, AnImpossibleWriteIndexIsAnError) {
  peer_.header()->rings[1].n_written.store(kRingBytes + 1);
  EXPECT_EQ(Recv(100), 0);
  EXPECT_EQ(link_->state(), LinkState::kLost);
  EXPECT_EQ(link_->loss(), absl::InternalError("rank 1 (test): shared memory is corrupt: n_written "
                                               "is 4097 bytes away, the ring has 4096"));
}

TEST_F(ShmLinkTest, AReadIndexAheadOfTheWrittenBytesIsAnError) {
  EXPECT_EQ(Send(100), 100);
  peer_.header()->rings[0].n_read.store(101);
  EXPECT_EQ(Send(1), 0);
  EXPECT_EQ(link_->loss().code(), absl::StatusCode::kInternal);
}

// Neither this side's own indices nor its flags are ever read back.
TEST_F(ShmLinkTest, OverwrittenOwnIndicesDoNotMatter) {
  EXPECT_EQ(Send(100), 100);
  peer_.header()->rings[0].n_written.store(~uint64_t{0});
  peer_.header()->rings[1].n_read.store(~uint64_t{0});
  EXPECT_EQ(Send(kRingBytes), kRingBytes - 100);
  EXPECT_EQ(Recv(100), 0);
  EXPECT_EQ(link_->state(), LinkState::kUp);
}

TEST_F(ShmLinkTest, APeerThatEndsWithoutClosingIsLost) {
  link_->EndSleep(POLLHUP);
  EXPECT_EQ(link_->state(), LinkState::kLost);
}

TEST_F(ShmLinkTest, APeerThatClosesFirstIsClosed) {
  peer_.header()->sides[1].closed.store(1);
  link_->EndSleep(POLLHUP);
  EXPECT_EQ(link_->state(), LinkState::kClosed);
}

TEST(SharedMappingTest, RefusesMemoryOfAnotherSizeOrWithoutSeals) {
  const absl::StatusOr<UniqueFd> memory = SharedMapping::CreateMemory(kRingBytes);
  EXPECT_EQ(SharedMapping::Map(memory->get(), 2 * kRingBytes).status().message(),
            "shared memory of 12288 bytes, expected 20480");
  const UniqueFd unsealed(memfd_create("unsealed", MFD_CLOEXEC));
  ASSERT_EQ(ftruncate(unsealed.get(), kSharedHeaderBytes + 2 * kRingBytes), 0);
  EXPECT_EQ(SharedMapping::Map(unsealed.get(), kRingBytes).status().message(),
            "shared memory is not sealed against resizing");
}

}  // namespace
}  // namespace bora

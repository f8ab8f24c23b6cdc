#include "model/protocol/peer_silence.h"

#include <gtest/gtest.h>

namespace bora {
namespace {

constexpr absl::Duration kGap = absl::Milliseconds(500);

TEST(PeerSilenceTest, GrowsWhileNothingIsHeard) {
  SteadyTime now;
  PeerSilence silence(now, kGap);
  for (int i = 1; i <= 40; ++i) {
    now += absl::Milliseconds(125);
    EXPECT_EQ(silence.Look(now), i * absl::Milliseconds(125));
  }
  silence.Heard(now);
  EXPECT_EQ(silence.length(), absl::ZeroDuration());
  EXPECT_EQ(silence.Look(now + absl::Milliseconds(100)), absl::Milliseconds(100));
}

TEST(PeerSilenceTest, TimeInWhichThisSideWasAwayDoesNotCount) {
  SteadyTime now;
  PeerSilence silence(now, kGap);
  EXPECT_EQ(silence.Look(now + absl::Hours(1)), kGap);
  EXPECT_EQ(silence.Look(now + absl::Hours(1) + absl::Milliseconds(10)),
            kGap + absl::Milliseconds(10));
}

}  // namespace
}  // namespace bora

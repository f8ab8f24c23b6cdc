// Which running sequences give way, in which order, and when a pause has to end.
#include "coordinator/scheduler/displacement.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

namespace bora {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

constexpr int64_t kSecond = 1'000'000;

// 12 slots: two sequences may pause.
class DisplacementTest : public testing::Test {
 protected:
  Sequence* Wait(const std::string& tenant, Priority priority = Priority::kStandard) {
    auto sequence = std::make_unique<Sequence>();
    sequence->priority = priority;
    sequence->age = AgeOf(now_us_, priority, sequences_.size());
    sequence->tenant = queue_.Open(tenant, now_us_);
    queue_.Push(sequence.get());
    return sequences_.emplace_back(std::move(sequence)).get();
  }
  Sequence* Run(const std::string& tenant, Priority priority = Priority::kStandard) {
    Sequence* const sequence = Wait(tenant, priority);
    Start(sequence);
    return sequence;
  }
  void Start(Sequence* sequence) {
    queue_.Remove(sequence);
    sequence->prefill_end = 1;
    sequence->slot_since_us = now_us_;
    running_.Add(sequence);
  }
  void Pause(Sequence* sequence) {
    displacement_.BeginPause(sequence, now_us_);
    running_.Remove(sequence);
    queue_.Push(sequence);
  }
  std::vector<Sequence*> GiversFor(const Sequence* next) const {
    return displacement_.GiversFor(*next, running_, queue_, now_us_);
  }

  FairQueue queue_{{}};
  RunningSequences running_{12};
  Displacement displacement_{12};
  std::vector<std::unique_ptr<Sequence>> sequences_;
  int64_t now_us_ = 0;
};

TEST_F(DisplacementTest, NoSequenceGivesWayToItsOwnTenant) {
  Run("a");
  Run("a");
  EXPECT_THAT(GiversFor(Wait("a")), IsEmpty());
}

TEST_F(DisplacementTest, HeldSequencesGiveWayToAnybodyEvenTheOldest) {
  Sequence* oldest = Run("a");
  Run("a");
  Sequence* newest = Run("a");
  oldest->held = newest->held = true;
  EXPECT_THAT(GiversFor(Wait("a")), ElementsAre(newest, oldest));
}

TEST_F(DisplacementTest, ALowerClassGivesWayToAnOlderSequenceFromTheNewestOn) {
  Run("a", Priority::kBatch);  // the oldest stays
  Sequence* second = Run("a", Priority::kBatch);
  Sequence* third = Run("a", Priority::kBatch);
  EXPECT_THAT(GiversFor(Wait("a")), ElementsAre(third, second));
  // Later by more than the class's handicap, a sequence is the newer one.
  now_us_ = 200 * kSecond;
  EXPECT_THAT(GiversFor(Wait("a")), IsEmpty());
}

TEST_F(DisplacementTest, ATenantTakesItsShareOfSlotsAndAtMostTwoSequencesPause) {
  std::vector<Sequence*> running;
  for (int i = 0; i < 12; ++i) running.push_back(Run("a"));
  Sequence* next = Wait("b");
  running[0]->tenant->virtual_tokens = 100;
  EXPECT_THAT(GiversFor(next), ElementsAre(running[11], running[10]));
  Pause(running[11]);
  EXPECT_THAT(GiversFor(next), ElementsAre(running[10]));
  Pause(running[10]);
  EXPECT_THAT(GiversFor(next), IsEmpty());
}

TEST_F(DisplacementTest, ATenantThatHadMoreTakesNothing) {
  for (int i = 0; i < 12; ++i) Run("a");
  Sequence* next = Wait("b");
  next->tenant->virtual_tokens = 1;
  EXPECT_THAT(GiversFor(next), IsEmpty());
}

TEST_F(DisplacementTest, AnOverdueSequenceTakesTheSlotOfItsOwnTenantFirst) {
  Run("a");
  Sequence* own = Run("a");
  Sequence* paused = Run("a");
  Sequence* other = Run("b");
  Pause(paused);
  EXPECT_EQ(displacement_.FirstOverdue(kMaxPauseUs - 1), nullptr);
  EXPECT_EQ(displacement_.FirstOverdue(kMaxPauseUs), paused);
  EXPECT_THAT(GiversFor(paused), IsEmpty());
  now_us_ = kMaxPauseUs;
  EXPECT_THAT(GiversFor(paused), ElementsAre(own, other));
}

TEST_F(DisplacementTest, AfterItsPauseASequenceKeepsItsSlotUntilItHasRunForItsShare) {
  Run("a");
  Sequence* paused = Run("a");
  Run("a");
  Sequence* next = Wait("b");
  paused->tenant->virtual_tokens = 100;
  Pause(paused);
  now_us_ = kMaxPauseUs;
  displacement_.EndPause(paused, now_us_);
  EXPECT_EQ(displacement_.FirstOverdue(now_us_), nullptr);
  running_.Remove(running_.by_age().back());
  Start(paused);
  now_us_ = kMaxPauseUs + kShareUs - 1;
  EXPECT_THAT(GiversFor(next), IsEmpty());
  now_us_ = kMaxPauseUs + kShareUs;
  EXPECT_THAT(GiversFor(next), ElementsAre(paused));
}

}  // namespace
}  // namespace bora

#include "base/mailbox.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <thread>
#include <vector>

#include "base/clock.h"

namespace bora {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

TEST(MailboxTest, GivesItemsInOrder) {
  Mailbox<int> mailbox(3);
  for (int i = 1; i <= 3; ++i) EXPECT_TRUE(mailbox.TryPush(int{i}));
  EXPECT_EQ(mailbox.PopUntil(SteadyTime::InfiniteFuture()), 1);
  EXPECT_THAT(mailbox.DrainUntil(SteadyTime::InfiniteFuture()), ElementsAre(2, 3));
}

TEST(MailboxTest, LeavesTheItemUntouchedWhenFull) {
  Mailbox<std::unique_ptr<int>> mailbox(1);
  EXPECT_TRUE(mailbox.TryPush(std::make_unique<int>(1)));
  auto second = std::make_unique<int>(2);
  EXPECT_FALSE(mailbox.TryPush(std::move(second)));
  ASSERT_NE(second, nullptr);  // NOLINT: that is the contract
  EXPECT_TRUE(mailbox.PushUnbounded(std::move(second)));
  EXPECT_EQ(mailbox.DrainUntil(SteadyTime::InfiniteFuture()).size(), 2u);
}

TEST(MailboxTest, IsEmptyAtTheDeadline) {
  Mailbox<int> mailbox(1);
  EXPECT_THAT(mailbox.DrainUntil(SteadyTime::InfinitePast()), IsEmpty());
  EXPECT_EQ(mailbox.PopUntil(SteadyNow() + absl::Milliseconds(1)), std::nullopt);
}

TEST(MailboxTest, CloseRefusesPushesAndKeepsItems) {
  Mailbox<int> mailbox(4);
  EXPECT_TRUE(mailbox.TryPush(1));
  EXPECT_FALSE(mailbox.closed());
  mailbox.Close();
  EXPECT_TRUE(mailbox.closed());
  EXPECT_FALSE(mailbox.TryPush(2));
  EXPECT_FALSE(mailbox.PushUnbounded(3));
  EXPECT_EQ(mailbox.PopUntil(SteadyTime::InfiniteFuture()), 1);
  EXPECT_EQ(mailbox.PopUntil(SteadyTime::InfiniteFuture()), std::nullopt);
}

TEST(MailboxTest, CloseWakesTheConsumer) {
  Mailbox<int> mailbox(1);
  std::thread closer([&] { mailbox.Close(); });
  EXPECT_THAT(mailbox.DrainUntil(SteadyTime::InfiniteFuture()), IsEmpty());
  closer.join();
}

TEST(MailboxTest, LosesNothingOfManyProducersAndKeepsEachOnesOrder) {
  constexpr int kProducers = 4;
  constexpr int kItems = 2000;
  struct Item {
    int producer;
    int number;
  };
  Mailbox<Item> mailbox(16);
  std::vector<std::thread> producers;
  for (int producer = 0; producer < kProducers; ++producer) {
    producers.emplace_back([&, producer] {
      for (int number = 0; number < kItems; ++number) {
        while (!mailbox.TryPush({producer, number})) std::this_thread::yield();
      }
    });
  }
  std::vector<int> next(kProducers, 0);
  for (int n = 0; n < kProducers * kItems;) {
    for (const Item& item : mailbox.DrainUntil(SteadyTime::InfiniteFuture())) {
      ASSERT_EQ(item.number, next[item.producer]++);
      ++n;
    }
  }
  for (std::thread& producer : producers) producer.join();
  EXPECT_THAT(mailbox.DrainUntil(SteadyTime::InfinitePast()), IsEmpty());
}

}  // namespace
}  // namespace bora

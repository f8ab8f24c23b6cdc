#include "coordinator/engine/queue_quota.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace bora {
namespace {

bool IsNamed(absl::string_view tenant) { return tenant == "named"; }

TEST(QueueQuotaTest, CountsSequences) {
  QueueQuota places(16, IsNamed);
  EXPECT_TRUE(places.Take("a", 10).taken);
  const QueueQuota::Answer refused = places.Take("a", 7);
  EXPECT_FALSE(refused.taken);
  EXPECT_EQ(refused.n_waiting, 10);
  EXPECT_TRUE(places.Take("a", 6).taken);
  EXPECT_FALSE(places.Take("a", 1).taken);
  places.Give("a", 3);
  EXPECT_TRUE(places.Take("a", 3).taken);
}

TEST(QueueQuotaTest, AQuarterMoreIsForTenantsBelowAnEqualPart) {
  QueueQuota places(16, IsNamed);
  EXPECT_TRUE(places.Take("flood", 16).taken);
  EXPECT_FALSE(places.Take("flood", 1).taken);
  // Eight would be an equal part; four places more are all that there are.
  EXPECT_FALSE(places.Take("light", 5).taken);
  EXPECT_TRUE(places.Take("light", 4).taken);
  EXPECT_FALSE(places.Take("light", 1).taken);
  places.Give("flood", 8);
  EXPECT_TRUE(places.Take("light", 4).taken);
}

TEST(QueueQuotaTest, NamesThatAreMadeUpCountAsOneTenant) {
  QueueQuota places(1300, IsNamed);
  EXPECT_TRUE(places.Take("flood", 1300).taken);
  std::vector<std::string> accounts;
  for (int i = 0; i < 100; ++i) {
    const QueueQuota::Answer place = places.Take("crowd" + std::to_string(i), 1);
    if (place.taken) accounts.push_back(place.account);
  }
  // 63 of their own; the others have an equal part of 1300 with those 64.
  EXPECT_EQ(accounts.size(), 63u + 1300 / 65);
  EXPECT_FALSE(places.Take("crowd200", 1).taken);
  EXPECT_EQ(places.Take("named", 1).account, "named");
  EXPECT_EQ(places.Take("crowd3", 1).account, "crowd3");
  places.Give("named", 1);
  places.Give("crowd3", 1);
  for (const std::string& account : accounts) places.Give(account, 1);
  EXPECT_EQ(places.Take("crowd200", 1).account, "crowd200");
}

TEST(QueueQuotaTest, AnEmptyQueueTakesAnyRequest) {
  QueueQuota places(4, IsNamed);
  EXPECT_TRUE(places.Take("a", 16).taken);
  EXPECT_EQ(places.Take("b", 1).n_waiting, 16);
  places.Give("a", 16);
  EXPECT_TRUE(places.Take("b", 16).taken);
}

}  // namespace
}  // namespace bora

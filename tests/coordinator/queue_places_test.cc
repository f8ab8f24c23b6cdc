#include "coordinator/queue_places.h"

#include <gtest/gtest.h>

namespace bora {
namespace {

TEST(QueuePlacesTest, CountsSequences) {
  QueuePlaces places(16);
  EXPECT_TRUE(places.Take("a", 10).taken);
  const QueuePlaces::Answer refused = places.Take("a", 7);
  EXPECT_FALSE(refused.taken);
  EXPECT_EQ(refused.n_waiting, 10);
  EXPECT_TRUE(places.Take("a", 6).taken);
  EXPECT_FALSE(places.Take("a", 1).taken);
  places.Give("a", 3);
  EXPECT_TRUE(places.Take("a", 3).taken);
}

TEST(QueuePlacesTest, AQuarterMoreIsForTenantsBelowAnEqualPart) {
  QueuePlaces places(16);
  EXPECT_TRUE(places.Take("flood", 16).taken);
  EXPECT_FALSE(places.Take("flood", 1).taken);
  // Eight would be an equal part; four places more are all that there are.
  EXPECT_FALSE(places.Take("light", 5).taken);
  EXPECT_TRUE(places.Take("light", 4).taken);
  EXPECT_FALSE(places.Take("light", 1).taken);
  places.Give("flood", 8);
  EXPECT_TRUE(places.Take("light", 4).taken);
}

TEST(QueuePlacesTest, AnEmptyQueueTakesAnyRequest) {
  QueuePlaces places(4);
  EXPECT_TRUE(places.Take("a", 16).taken);
  EXPECT_EQ(places.Take("b", 1).n_waiting, 16);
  places.Give("a", 16);
  EXPECT_TRUE(places.Take("b", 16).taken);
}

}  // namespace
}  // namespace bora

#include "coordinator/scheduler/fair_queue.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "tests/coordinator/simulated_pipeline.h"

namespace bora {
namespace {

class FairQueueTest : public testing::Test {
 protected:
  Ticket* Add(const std::string& tenant, Priority priority, int64_t arrival_us) {
    auto ticket = std::make_unique<Ticket>();
    ticket->priority = priority;
    ticket->age = AgeOf(arrival_us, priority, tickets_.size());
    ticket->tenant = queue_.Open(tenant, arrival_us);
    queue_.Push(ticket.get());
    return tickets_.emplace_back(std::move(ticket)).get();
  }
  void Leave(Ticket* ticket) {
    queue_.Remove(ticket);
    queue_.Close(ticket->tenant, ticket->age.us);
  }
  Ticket* Pop() {
    Ticket* front = queue_.Front();
    queue_.Remove(front);
    return front;
  }

  FairQueue queue_{{{"double", 2}}};
  std::vector<std::unique_ptr<Ticket>> tickets_;
};

constexpr int64_t kSecond = 1'000'000;

TEST_F(FairQueueTest, FirstComeFirstServedInOneClassAndTenant) {
  Ticket* second = Add("", Priority::kStandard, 2);
  Ticket* first = Add("", Priority::kStandard, 1);
  Ticket* third = Add("", Priority::kStandard, 2);
  EXPECT_EQ(Pop(), first);
  EXPECT_EQ(Pop(), second);
  EXPECT_EQ(Pop(), third);
  EXPECT_TRUE(queue_.empty());
}

TEST_F(FairQueueTest, HigherClassesFirstUntilTheHandicapIsOver) {
  Ticket* batch = Add("", Priority::kBatch, 0);
  Ticket* standard = Add("", Priority::kStandard, 50 * kSecond);
  Ticket* early = Add("", Priority::kInteractive, 59 * kSecond);
  Ticket* late = Add("", Priority::kInteractive, 61 * kSecond);
  EXPECT_EQ(Pop(), early);
  EXPECT_EQ(Pop(), standard);
  EXPECT_EQ(Pop(), late);
  Ticket* later = Add("", Priority::kInteractive, 101 * kSecond);
  EXPECT_EQ(Pop(), batch);
  EXPECT_EQ(Pop(), later);
}

TEST_F(FairQueueTest, TenantsTakeTurnsByTheTokensTheyHad) {
  std::map<std::string, int> n_served;
  for (int i = 0; i < 40; ++i) Add("flood", Priority::kStandard, 0);
  for (int i = 0; i < 40; ++i) Add("double", Priority::kStandard, 1);
  for (int i = 0; i < 40; ++i) Add("light", Priority::kStandard, 2);
  for (int i = 0; i < 40; ++i) {
    Ticket* ticket = Pop();
    ++n_served[ticket->tenant->name];
    FairQueue::Charge(ticket->tenant, 100);
  }
  EXPECT_EQ(n_served["flood"], 10);
  EXPECT_EQ(n_served["double"], 20);
  EXPECT_EQ(n_served["light"], 10);
}

TEST_F(FairQueueTest, EverNewTenantsStarveNobody) {
  Ticket* old = Add("old", Priority::kStandard, 0);
  Add("idle", Priority::kStandard, 0);  // with the lowest counter, which newcomers get
  FairQueue::Charge(old->tenant, 1e6);
  for (int64_t i = 1; i < 60; ++i) {
    Ticket* young = Add("young" + std::to_string(i), Priority::kStandard, i * kSecond);
    EXPECT_NE(queue_.Front(), old);
    Leave(young);
  }
  Pop();
  Add("young", Priority::kStandard, 61 * kSecond);
  EXPECT_EQ(Pop(), old);
}

TEST_F(FairQueueTest, WhoWasAwayBeginsWithTheOthersAndNobodyLosesItsCounter) {
  Ticket* worker = Add("worker", Priority::kStandard, 0);
  FairQueue::Charge(worker->tenant, 5000);
  // It was not there: that is no claim.
  Ticket* late = Add("late", Priority::kStandard, 1);
  EXPECT_EQ(late->tenant->virtual_tokens, 5000);
  // Who leaves and comes again has what it had.
  FairQueue::Charge(late->tenant, 700);
  Leave(late);
  EXPECT_EQ(Add("late", Priority::kStandard, 2)->tenant->virtual_tokens, 5700);
}

TEST_F(FairQueueTest, RemembersABoundedNumberOfTenants) {
  Ticket* worker = Add("worker", Priority::kStandard, 0);
  for (int i = 0; i < 20000; ++i) {
    Ticket* ticket = Add("tenant" + std::to_string(i), Priority::kStandard, 1);
    EXPECT_DOUBLE_EQ(queue_.Share(*ticket->tenant), 0.5);
    FairQueue::Charge(ticket->tenant, 1);
    Leave(ticket);
  }
  EXPECT_EQ(queue_.Share(*worker->tenant), 1);
  EXPECT_EQ(Pop(), worker);
  EXPECT_LE(queue_.n_tenants(), kMaxUnnamedTenants + 1);
}

TEST_F(FairQueueTest, NamesThatAreMadeUpAreOneTenant) {
  std::vector<Ticket*> first;
  for (int i = 0; i < kMaxUnnamedTenants; ++i) {
    first.push_back(Add("tenant" + std::to_string(i), Priority::kInteractive, 0));
  }
  Ticket* other = Add("x", Priority::kInteractive, 0);
  EXPECT_EQ(Add("y", Priority::kInteractive, 0)->tenant, other->tenant);
  EXPECT_EQ(Add("tenant7", Priority::kInteractive, 0)->tenant, first[7]->tenant);
  EXPECT_EQ(Add("double", Priority::kInteractive, 0)->tenant->weight, 2);
  // Together they have what one has.
  EXPECT_DOUBLE_EQ(queue_.Share(*other->tenant), 1.0 / (kMaxUnnamedTenants + 1 + 2));
  EXPECT_EQ(queue_.AheadOf("z", Priority::kInteractive).own_n_sequences, 2);
  // A name is free again when nobody has used it for a while.
  Leave(first[9]);
  EXPECT_EQ(Add("z", Priority::kInteractive, kTenantWindowUs)->tenant, other->tenant);
  EXPECT_NE(Add("z", Priority::kInteractive, kTenantWindowUs + 1)->tenant, other->tenant);
}

// Whatever comes and goes, each step serves whom the rules name, by a model that is a plain list.
TEST_F(FairQueueTest, ServesAsAPlainListWould) {
  std::mt19937_64 random(3);
  const auto below = [&random](uint64_t n) { return static_cast<int>(random() % n); };
  std::vector<Ticket*> waiting;
  int64_t now_us = 0;
  for (int i = 0; i < 20000; ++i) {
    now_us += below(2 * kSecond);
    if (waiting.empty() || below(2) == 0) {
      waiting.push_back(Add(std::string(1, static_cast<char>('a' + below(5))),
                            static_cast<Priority>(below(3)), now_us));
      continue;
    }
    const Ticket* oldest =
        *std::min_element(waiting.begin(), waiting.end(),
                          [](const Ticket* a, const Ticket* b) { return a->age < b->age; });
    const Ticket* expected =
        *std::min_element(waiting.begin(), waiting.end(), [](const Ticket* a, const Ticket* b) {
          return std::tie(a->priority, a->tenant->virtual_tokens, a->age) <
                 std::tie(b->priority, b->tenant->virtual_tokens, b->age);
        });
    if (oldest->priority != expected->priority || IsMuchOlder(*oldest, *expected))
      expected = oldest;
    EXPECT_EQ(queue_.Front(), expected);
    // Some leave before it is their turn.
    Ticket* front = below(8) == 0 ? waiting[below(waiting.size())] : queue_.Front();
    queue_.Remove(front);
    waiting.erase(std::find(waiting.begin(), waiting.end(), front));
    FairQueue::Charge(front->tenant, below(1000));
    queue_.Close(front->tenant, now_us);
  }
}

// 16 slots, so that a flood has them all; a plan of at most 40 ms.
GroupLimits FloodLimits() {
  return {.max_num_seqs = 16,
          .max_num_batched_tokens = 512,
          .max_model_len = 32768,
          .block_size = 16,
          .n_blocks = 16384,
          .vocab_size = 1000};
}

double Percentile99(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() * 99 / 100];
}

// The 99th percentile of a tenant's time to the first token, which sends a request every 200 ms,
// while another one has as many open as its share allows and, in a flood, a hundred times as many
// of n_flood_prompt tokens more.
double TimeToFirstToken(bool flood, int32_t n_flood_prompt, int32_t n_flood_output) {
  SimulatedPipeline simulation({1, 300, 20}, FloodLimits(), 40e3);
  for (int i = 0; i < (flood ? 800 : 8); ++i) {
    simulation.Add(n_flood_prompt, n_flood_output, "flood");
  }
  simulation.Run(2e6);
  std::vector<uint64_t> handles;
  for (int i = 0; i < 100; ++i) {
    handles.push_back(simulation.Add(300, 20, "light"));
    simulation.Run(simulation.now_us() + 200e3);
    // The other one goes on.
    while (!flood && simulation.scheduler().n_running() + simulation.n_waiting() < 8) {
      simulation.Add(n_flood_prompt, n_flood_output, "flood");
    }
  }
  simulation.Run(simulation.now_us() + 10e6);
  return Percentile99(simulation.TimesToFirstToken(handles));
}

TEST(FairnessTest, AFloodDoesNotDoubleAnothersTimeToFirstToken) {
  struct Flood {
    int32_t n_prompt, n_output;
  };
  for (const Flood flood : {Flood{200, 400}, Flood{2000, 100}, Flood{16000, 10}}) {
    const double calm_us = TimeToFirstToken(false, flood.n_prompt, flood.n_output);
    const double flood_us = TimeToFirstToken(true, flood.n_prompt, flood.n_output);
    std::printf("prompts of %d, outputs of %d tokens: %.1f ms, in a flood %.1f ms\n",
                flood.n_prompt, flood.n_output, calm_us / 1e3, flood_us / 1e3);
    EXPECT_LE(flood_us, 2 * calm_us);
  }
}

// A tenant with eight long streams and a request now and then, among a crowd in which each request
// has a name of its own and that sends twice as much as can be served.
TEST(FairnessTest, EverNewTenantsPauseNoStreamForLong) {
  constexpr double kSeconds = 1e6;
  SimulatedPipeline simulation({1, 300, 20}, FloodLimits(), 40e3);
  std::vector<uint64_t> streams;
  for (int i = 0; i < 8; ++i) streams.push_back(simulation.Add(100, 20000, "shop"));
  simulation.Run(1 * kSeconds);
  std::vector<uint64_t> crowd, requests;
  for (int i = 0; simulation.now_us() < 60 * kSeconds; ++i) {
    crowd.push_back(simulation.Add(100, 200, "crowd" + std::to_string(i)));
    if (i % 50 == 0 && i < 1000) requests.push_back(simulation.Add(100, 20, "shop"));
    simulation.Run(simulation.now_us() + 30e3);
  }
  double longest_us = 0, paused_us = 0;
  for (const uint64_t handle : streams) {
    longest_us = std::max(longest_us, simulation.LongestGapUs(handle));
    paused_us = std::max(paused_us, simulation.PausedUs(handle));
  }
  crowd.resize(crowd.size() / 8);
  const double first_token_us = Percentile99(simulation.TimesToFirstToken(requests));
  const double crowd_us = Percentile99(simulation.TimesToFirstToken(crowd));
  std::printf(
      "longest pause %.0f ms, in all %.1f s; first tokens: p99 %.0f ms, of the crowd %.0f ms\n",
      longest_us / 1e3, paused_us / 1e6, first_token_us / 1e3, crowd_us / 1e3);
  // What it computes again afterwards takes a few steps.
  EXPECT_LE(longest_us, static_cast<double>(kMaxPauseUs) + 200e3);
  EXPECT_LE(paused_us, 60 * kSeconds * kMaxPauseUs / (kMaxPauseUs + kShareUs) + 1 * kSeconds);
  // It waits no longer than the others do.
  EXPECT_LE(first_token_us, crowd_us);
}

TEST(FairnessTest, InteractiveRequestsAreServedBeforeAndInsteadOfBatchOnes) {
  SimulatedPipeline simulation({1, 300, 20}, FloodLimits(), 40e3);
  std::vector<uint64_t> batch;
  for (int i = 0; i < 64; ++i) batch.push_back(simulation.Add(500, 2000, "", Priority::kBatch));
  simulation.Run(1e6);
  const uint64_t first = simulation.Add(100, 20, "", Priority::kInteractive);
  simulation.Run(simulation.now_us() + 300e3);
  // A few steps, though all slots were taken.
  EXPECT_LE(simulation.TimesToFirstToken({first})[0], 200e3);
  // And all end.
  simulation.Run(SimulatedPipeline::kForever);
  EXPECT_EQ(simulation.TimesToFirstToken(batch).size(), 64u);
  EXPECT_GT(simulation.scheduler().n_preemptions(), 0);
}

}  // namespace
}  // namespace bora

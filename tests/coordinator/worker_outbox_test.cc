// Messages reach each worker in the order in which they were posted, and a plan for many workers
// is serialised once.
#include "coordinator/worker_port/worker_outbox.h"

#include <gmock/gmock.h>
#include <grpcpp/impl/codegen/proto_utils.h>
#include <grpcpp/support/slice.h>
#include <gtest/gtest.h>

#include <memory>
#include <utility>
#include <vector>

#include "bora/worker/v1alpha1/worker_service.pb.h"

namespace bora {
namespace {

namespace pb = worker::v1alpha1;

// Owned by the outbox's thread until that is stopped.
class NotingSink final : public WireSink {
 public:
  void Write(grpc::ByteBuffer message, bool is_heartbeat) override {
    grpc::Slice slice;
    ASSERT_TRUE(message.TrySingleSlice(&slice).ok());
    first_bytes.push_back(slice.begin());
    buffers.push_back(message);
    heartbeats.push_back(is_heartbeat);
    pb::CoordinatorMessage proto;
    ASSERT_TRUE(
        grpc::SerializationTraits<pb::CoordinatorMessage>::Deserialize(&message, &proto).ok());
    protos.push_back(std::move(proto));
  }

  std::vector<pb::CoordinatorMessage> protos;
  std::vector<bool> heartbeats;
  std::vector<grpc::ByteBuffer> buffers;    // keep the memory
  std::vector<const uint8_t*> first_bytes;  // of each message
};

std::shared_ptr<const StepPlan> Plan(int64_t step_id) {
  auto plan = std::make_shared<StepPlan>();
  plan->step_id = step_id;
  // So many bytes that gRPC does not keep them inside the slice.
  for (int32_t i = 0; i < 64; ++i) plan->rows.push_back({.slot = i, .n_tokens = 1});
  return plan;
}

TEST(WorkerOutboxTest, KeepsTheOrderOfEachSink) {
  WorkerOutbox outbox;
  const auto sink = std::make_shared<NotingSink>();
  outbox.Post(sink, JoinGroup{.epoch = 7});
  for (int64_t step_id = 0; step_id < 100; ++step_id) outbox.Post(sink, Plan(step_id));
  outbox.Post(sink, Heartbeat{});
  outbox.Post(sink, LeaveGroup{.epoch = 7});
  outbox.Stop();
  ASSERT_EQ(sink->protos.size(), 103u);
  EXPECT_EQ(sink->protos[0].join_group().epoch(), 7);
  for (int64_t step_id = 0; step_id < 100; ++step_id) {
    EXPECT_EQ(sink->protos[1 + step_id].step_plan().step_id(), step_id);
  }
  EXPECT_TRUE(sink->protos[101].has_heartbeat());
  EXPECT_TRUE(sink->heartbeats[101]);
  EXPECT_FALSE(sink->heartbeats[100]);
  EXPECT_EQ(sink->protos[102].leave_group().epoch(), 7);
}

TEST(WorkerOutboxTest, SerialisesAPlanOnceForAllSinks) {
  WorkerOutbox outbox;
  std::vector<std::shared_ptr<NotingSink>> sinks;
  for (int i = 0; i < 8; ++i) sinks.push_back(std::make_shared<NotingSink>());
  for (int64_t step_id = 0; step_id < 2; ++step_id) {
    const auto plan = Plan(step_id);
    for (const auto& sink : sinks) outbox.Post(sink, plan);
  }
  outbox.Stop();
  for (const auto& sink : sinks) {
    ASSERT_EQ(sink->protos.size(), 2u);
    EXPECT_EQ(sink->first_bytes, sinks[0]->first_bytes);
    EXPECT_EQ(sink->protos[1].step_plan().step_id(), 1);
  }
  EXPECT_NE(sinks[0]->first_bytes[0], sinks[0]->first_bytes[1]);
}

TEST(WorkerOutboxTest, DropsWhatIsPostedAfterStop) {
  WorkerOutbox outbox;
  const auto sink = std::make_shared<NotingSink>();
  outbox.Stop();
  outbox.Post(sink, Heartbeat{});
  outbox.Stop();
  EXPECT_TRUE(sink->protos.empty());
  EXPECT_EQ(sink.use_count(), 1);
}

}  // namespace
}  // namespace bora

#include "coordinator/worker_port/worker_outbox.h"

#include <grpcpp/impl/codegen/proto_utils.h>

#include <limits>
#include <utility>
#include <vector>

#include "base/check.h"
#include "base/clock.h"
#include "coordinator/worker_port/serialize.h"
#include "model/protocol/worker_codec.h"

namespace bora {

namespace pb = worker::v1alpha1;

WorkerOutbox::WorkerOutbox()
    : items_(std::numeric_limits<size_t>::max()), thread_([this] { Run(); }) {}

WorkerOutbox::~WorkerOutbox() { Stop(); }

void WorkerOutbox::Stop() {
  items_.Close();
  if (thread_.joinable()) thread_.join();
}

void WorkerOutbox::Post(std::shared_ptr<WireSink> sink, CoordinatorMessage message) {
  items_.PushUnbounded(Item{std::move(sink), std::move(message)});
}

void WorkerOutbox::Post(std::shared_ptr<WireSink> sink, std::shared_ptr<const StepPlan> plan) {
  items_.PushUnbounded(Item{std::move(sink), std::move(plan)});
}

void WorkerOutbox::Run() {
  pb::CoordinatorMessage proto;  // used again for every message: its fields keep their memory
  std::shared_ptr<const StepPlan> last_plan;
  grpc::ByteBuffer plan_bytes;  // of last_plan; a copy shares the memory
  while (true) {
    std::vector<Item> items = items_.DrainUntil(SteadyTime::InfiniteFuture());
    if (items.empty()) return;  // stopped
    for (Item& item : items) {
      if (auto* plan = std::get_if<std::shared_ptr<const StepPlan>>(&item.message)) {
        // last_plan keeps the plan alive, so that equal addresses mean the same plan.
        if (*plan != last_plan) {
          last_plan = std::move(*plan);
          ToProto(*last_plan, &proto);
          plan_bytes = Serialize(proto);
        }
        item.sink->Write(plan_bytes, /*is_heartbeat=*/false);
      } else {
        const auto& message = std::get<CoordinatorMessage>(item.message);
        ToProto(message, &proto);
        item.sink->Write(Serialize(proto), std::holds_alternative<Heartbeat>(message));
      }
    }
  }
}

}  // namespace bora

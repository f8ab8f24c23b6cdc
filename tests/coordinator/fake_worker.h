// Workers as the cluster sees them, by hand: they note what they are told and say what the test
// makes them say.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "coordinator/cluster/cluster.h"

namespace bora {

// Owned by the test's thread.
class FakeLink final : public WorkerStream {
 public:
  void Send(CoordinatorMessage message) override {
    CHECK(open) << "a message after Close";
    messages.push_back(std::move(message));
  }
  void SendPlan(std::shared_ptr<const StepPlan> plan) override { Send(*plan); }
  void Close(absl::Status reason) override {
    CHECK(open) << "closed twice";
    open = false;
    close_reason = std::move(reason);
  }

  // The newest message of this type, or null.
  template <typename Message>
  const Message* Last() const {
    const Message* last = nullptr;
    for (const CoordinatorMessage& message : messages) {
      if (const auto* found = std::get_if<Message>(&message)) last = found;
    }
    return last;
  }
  template <typename Message>
  int Count() const {
    int n = 0;
    for (const CoordinatorMessage& message : messages) {
      n += std::holds_alternative<Message>(message) ? 1 : 0;
    }
    return n;
  }

  bool open = true;
  absl::Status close_reason;
  std::vector<CoordinatorMessage> messages;
};

// Also usable with a cluster of one's own options: build "b1".
inline Hello FakeHello(const std::string& host) {
  Hello hello;
  hello.build_id = "b1";
  hello.host = host;
  hello.pid = 7;
  hello.device = "cpu";
  hello.collectives = "host";
  hello.endpoint.host_id = absl::StrCat("id of ", host);
  hello.endpoint.tcp_address = absl::StrCat(host, ":1");
  return hello;
}

// What a worker holds after `load`.
inline LoadedModel FakeLoaded(const LoadModel& load) {
  LoadedModel loaded;
  loaded.load = load;
  loaded.fingerprint = "f1";
  loaded.weight_bytes = 1000;
  loaded.kv_block_bytes = 64;
  loaded.max_blocks = 40;
  return loaded;
}

}  // namespace bora

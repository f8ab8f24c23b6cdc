// The thread between the engine and the transports: the engine thread only hands data over and
// never enters a transport; this thread serialises messages and starts their writes. While it
// works, further tokens of a step gather, so that a step of many streams costs one wake-up. The
// thread also cuts calls off whose writes do not end.
#pragma once

#include <memory>
#include <optional>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "base/clock.h"
#include "base/steady_cond_var.h"

namespace bora {

// A call that the pump serves. The pump's thread calls all functions.
class Pumped {
 public:
  virtual ~Pumped() = default;
  // Starts to write the next message if there is one and no write is under way.
  virtual void Pump() = 0;
  // Ends the call if the write under way began before `oldest`.
  virtual void CutIfStalled(SteadyTime oldest) = 0;
};

// Thread-safe.
class CallPump {
 public:
  // A write may take `stall_limit`; the call is cut at most a quarter of that time later.
  explicit CallPump(absl::Duration stall_limit);
  // REQUIRES: every Pumped was removed.
  ~CallPump();

  // Watches over the call until Remove; the pump does not keep it alive.
  void Add(const std::shared_ptr<Pumped>& pumped);
  void Remove(Pumped* pumped);
  // Has pumped->Pump() called soon. REQUIRES: no earlier Kick of the same call is still waiting.
  void Kick(std::shared_ptr<Pumped> pumped);

 private:
  void Run();
  // Waits for kicked calls until `next_check`, and takes them; nullopt once the pump stops.
  std::optional<std::vector<std::shared_ptr<Pumped>>> TakeKicked(SteadyTime next_check);
  // Calls CutIfStalled of every live call.
  void CutStalled();

  const absl::Duration stall_limit_;
  absl::Mutex mutex_;
  SteadyCondVar has_work_;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::vector<std::shared_ptr<Pumped>> kicked_ ABSL_GUARDED_BY(mutex_);
  absl::flat_hash_map<Pumped*, std::weak_ptr<Pumped>> live_ ABSL_GUARDED_BY(mutex_);
  std::thread thread_;
};

}  // namespace bora

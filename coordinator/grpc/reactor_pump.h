// The thread between the engine and gRPC: the engine thread only hands data over and never enters
// gRPC; this thread serialises and writes it. While it works, further tokens of a step gather, so
// that a step of many streams costs one wake-up. It also looks after writes that do not end.
#pragma once

#include <memory>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "absl/types/optional.h"
#include "base/clock.h"
#include "base/steady_cond_var.h"

namespace bora {

// What the pump serves. Called on the pump's thread.
class Pumped {
 public:
  virtual ~Pumped() = default;
  // Writes what there is, if nothing is being written.
  virtual void Pump() = 0;
  // Ends the call if a write has not ended since `oldest`.
  virtual void CutIfStalled(SteadyTime oldest) = 0;
};

// Thread-safe.
class ReactorPump {
 public:
  // A write may take `stall_limit`; it is cut at most a quarter of that later.
  explicit ReactorPump(absl::Duration stall_limit);
  // Every Pumped must have been removed.
  ~ReactorPump();

  void Add(const std::shared_ptr<Pumped>& pumped);
  void Remove(Pumped* pumped);
  // Has Pump called soon. The caller sees to it that it is not called again before that.
  void Kick(std::shared_ptr<Pumped> pumped);

 private:
  void Run();
  // What was kicked by `next_check`; nothing once the pump stops.
  absl::optional<std::vector<std::shared_ptr<Pumped>>> TakeKicked(SteadyTime next_check);
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

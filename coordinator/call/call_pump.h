// The thread between the engine and the transports. The engine thread only hands over data and
// never calls a transport; the pump's thread serialises messages and starts their writes. While it
// works, further tokens of a step gather, so that a step of many streams costs one wake-up. The
// pump's thread also ends calls whose writes take too long.
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

// A call that the pump serves. All functions are called on the pump's thread.
class Pumped {
 public:
  virtual ~Pumped() = default;
  // Starts to write the next message if there is one and no write is under way. Must not block.
  virtual void Pump() = 0;
  // Ends the call if a write is under way that began before `oldest`.
  virtual void CutIfStalled(SteadyTime oldest) = 0;
};

// Thread-safe.
class CallPump {
 public:
  // A write may take `stall_limit`. A call whose write takes longer is ended at most a quarter of
  // stall_limit later, as writes are checked four times per stall_limit.
  explicit CallPump(absl::Duration stall_limit);
  // REQUIRES: every Pumped was removed.
  ~CallPump();

  // Checks the call's writes until Remove. The pump does not keep the call alive.
  void Add(const std::shared_ptr<Pumped>& pumped);
  // The pump checks the call no more. A Pump() or CutIfStalled() that has begun may still run.
  void Remove(Pumped* pumped);
  // Makes the pump's thread call pumped->Pump() soon; keeps the call alive until then.
  // REQUIRES: no earlier Kick of the same call is still waiting.
  void Kick(std::shared_ptr<Pumped> pumped);

 private:
  void Run();
  // Waits until a call is kicked, at most until `next_check`, and returns the kicked calls. Returns
  // nullopt when the pump is to stop.
  std::optional<std::vector<std::shared_ptr<Pumped>>> TakeKicked(SteadyTime next_check);
  // Calls CutIfStalled of every live call.
  void CutStalled();

  const absl::Duration stall_limit_;
  absl::Mutex mutex_;
  SteadyCondVar has_work_;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  // Calls whose Pump() is to be called, in the order of their kicks.
  std::vector<std::shared_ptr<Pumped>> kicked_ ABSL_GUARDED_BY(mutex_);
  // Calls between Add and Remove.
  absl::flat_hash_map<Pumped*, std::weak_ptr<Pumped>> live_ ABSL_GUARDED_BY(mutex_);
  std::thread thread_;
};

}  // namespace bora

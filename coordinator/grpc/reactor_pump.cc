#include "coordinator/grpc/reactor_pump.h"

#include <pthread.h>

#include <utility>

#include "base/check.h"
#include "base/clock.h"

namespace bora {

ReactorPump::ReactorPump(absl::Duration stall_limit)
    : stall_limit_(stall_limit), thread_([this] { Run(); }) {}

ReactorPump::~ReactorPump() {
  {
    absl::MutexLock lock(&mutex_);
    CHECK(live_.empty()) << live_.size() << " calls outlive the pump";
    stopping_ = true;
    has_work_.Signal();
  }
  thread_.join();
}

void ReactorPump::Add(const std::shared_ptr<Pumped>& pumped) {
  absl::MutexLock lock(&mutex_);
  live_[pumped.get()] = pumped;
}

void ReactorPump::Remove(Pumped* pumped) {
  absl::MutexLock lock(&mutex_);
  live_.erase(pumped);
}

void ReactorPump::Kick(std::shared_ptr<Pumped> pumped) {
  absl::MutexLock lock(&mutex_);
  kicked_.push_back(std::move(pumped));
  has_work_.Signal();
}

absl::optional<std::vector<std::shared_ptr<Pumped>>> ReactorPump::TakeKicked(
    SteadyTime next_check) {
  absl::MutexLock lock(&mutex_);
  while (!stopping_ && kicked_.empty() && SteadyNow() < next_check) {
    has_work_.WaitUntil(&mutex_, next_check);
  }
  if (stopping_) return absl::nullopt;
  return std::exchange(kicked_, {});
}

void ReactorPump::Run() {
  pthread_setname_np(pthread_self(), "bora-pump");
  SteadyTime next_check = SteadyNow() + stall_limit_ / 4;
  while (true) {
    const auto kicked = TakeKicked(next_check);
    if (!kicked.has_value()) return;
    for (const std::shared_ptr<Pumped>& pumped : *kicked) pumped->Pump();
    const SteadyTime now = SteadyNow();
    if (now < next_check) continue;
    // After a longer pause than this it was the pump that stood still, and with it all that reads.
    if (now - next_check < stall_limit_ / 4) CutStalled();
    next_check = now + stall_limit_ / 4;
  }
}

void ReactorPump::CutStalled() {
  std::vector<std::shared_ptr<Pumped>> live;
  {
    absl::MutexLock lock(&mutex_);
    for (const auto& [pointer, weak] : live_) {
      if (std::shared_ptr<Pumped> pumped = weak.lock()) live.push_back(std::move(pumped));
    }
  }
  const SteadyTime oldest = SteadyNow() - stall_limit_;
  for (const std::shared_ptr<Pumped>& pumped : live) pumped->CutIfStalled(oldest);
}

}  // namespace bora

#include "coordinator/call/call_pump.h"

#include <pthread.h>

#include <utility>

#include "base/check.h"
#include "base/clock.h"

namespace bora {

CallPump::CallPump(absl::Duration stall_limit)
    : stall_limit_(stall_limit), thread_([this] { Run(); }) {}

CallPump::~CallPump() {
  {
    absl::MutexLock lock(&mutex_);
    CHECK(live_.empty()) << live_.size() << " calls outlive the pump";
    stopping_ = true;
    has_work_.Signal();
  }
  thread_.join();
}

void CallPump::Add(const std::shared_ptr<Pumped>& pumped) {
  absl::MutexLock lock(&mutex_);
  live_[pumped.get()] = pumped;
}

void CallPump::Remove(Pumped* pumped) {
  absl::MutexLock lock(&mutex_);
  live_.erase(pumped);
}

void CallPump::Kick(std::shared_ptr<Pumped> pumped) {
  absl::MutexLock lock(&mutex_);
  kicked_.push_back(std::move(pumped));
  has_work_.Signal();
}

std::optional<std::vector<std::shared_ptr<Pumped>>> CallPump::TakeKicked(SteadyTime next_check) {
  absl::MutexLock lock(&mutex_);
  while (!stopping_ && kicked_.empty() && SteadyNow() < next_check) {
    has_work_.WaitUntil(&mutex_, next_check);
  }
  if (stopping_) return std::nullopt;
  return std::exchange(kicked_, {});
}

void CallPump::Run() {
  pthread_setname_np(pthread_self(), "bora-pump");
  SteadyTime next_check = SteadyNow() + stall_limit_ / 4;
  while (true) {
    const auto kicked = TakeKicked(next_check);
    if (!kicked.has_value()) return;
    for (const std::shared_ptr<Pumped>& pumped : *kicked) pumped->Pump();
    const SteadyTime now = SteadyNow();
    if (now < next_check) continue;
    // If the check is late by another quarter of the limit, the whole process stood still, and so
    // did its reading of acknowledgements: the writes look stalled, but no client is to blame.
    if (now - next_check < stall_limit_ / 4) CutStalled();
    next_check = now + stall_limit_ / 4;
  }
}

void CallPump::CutStalled() {
  // The calls are ended without the mutex: CutIfStalled takes the call's mutex, under which the
  // call may kick the pump.
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

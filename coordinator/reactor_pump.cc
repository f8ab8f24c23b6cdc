#include "coordinator/reactor_pump.h"

#include <pthread.h>

#include <utility>

#include "absl/time/clock.h"
#include "base/check.h"

namespace bora {

ReactorPump::ReactorPump(absl::Duration stall_limit)
    : stall_limit_(stall_limit), thread_([this] { Run(); }) {}

ReactorPump::~ReactorPump() {
  {
    absl::MutexLock lock(&mutex_);
    CHECK(live_.empty()) << live_.size() << " calls outlive the pump";
    stopping_ = true;
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
}

void ReactorPump::Run() {
  pthread_setname_np(pthread_self(), "bora-pump");
  absl::Time next_check = absl::Now() + stall_limit_ / 4;
  std::vector<std::shared_ptr<Pumped>> batch;
  while (true) {
    {
      absl::MutexLock lock(&mutex_);
      mutex_.AwaitWithDeadline(absl::Condition(this, &ReactorPump::HasWork), next_check);
      if (stopping_) return;
      batch.swap(kicked_);
    }
    for (const std::shared_ptr<Pumped>& pumped : batch) pumped->Pump();
    batch.clear();
    if (absl::Now() >= next_check) {
      CutStalled();
      next_check = absl::Now() + stall_limit_ / 4;
    }
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
  const absl::Time oldest = absl::Now() - stall_limit_;
  for (const std::shared_ptr<Pumped>& pumped : live) pumped->CutIfStalled(oldest);
}

}  // namespace bora

#include "coordinator/call/task_pool.h"

#include <sys/resource.h>

#include <optional>
#include <utility>

#include "base/clock.h"

namespace bora {
namespace {

// A thread this much nicer than the others gets one of ten parts of a busy core's time.
constexpr int kTextNiceness = 10;

// Lowers the priority of the calling thread, which is what Linux means by process 0.
void GiveWay() { setpriority(PRIO_PROCESS, 0, getpriority(PRIO_PROCESS, 0) + kTextNiceness); }

}  // namespace

TaskPool::TaskPool(int n_prompt_threads, size_t max_waiting_prompts, size_t max_waiting_texts)
    : max_waiting_prompts_(max_waiting_prompts),
      max_waiting_texts_(max_waiting_texts),
      prompts_(max_waiting_prompts),
      texts_(max_waiting_texts) {
  const auto run = [](Tasks* tasks) {
    while (std::optional<std::function<void()>> task =
               tasks->PopUntil(SteadyTime::InfiniteFuture())) {
      (*task)();
    }
  };
  for (int i = 0; i < n_prompt_threads; ++i) threads_.emplace_back([this, run] { run(&prompts_); });
  threads_.emplace_back([this, run] {
    GiveWay();
    run(&texts_);
  });
}

TaskPool::~TaskPool() {
  prompts_.Close();
  texts_.Close();
  for (std::thread& thread : threads_) thread.join();
}

bool TaskPool::TryRun(Kind kind, std::function<void()> task) {
  return (kind == Kind::kPrompt ? prompts_ : texts_).TryPush(std::move(task));
}

}  // namespace bora

#include "coordinator/call/task_pool.h"

#include <sys/resource.h>

#include <optional>
#include <utility>

#include "base/clock.h"

namespace bora {
namespace {

// On a core that another thread keeps busy, a thread with this much more niceness gets about a
// tenth of the time.
constexpr int kTextNiceness = 10;

// Lowers the priority of the calling thread: on Linux, setpriority with process 0 means the calling
// thread alone.
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

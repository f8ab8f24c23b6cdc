#include "coordinator/task_pool.h"

#include <optional>
#include <utility>

#include "absl/time/time.h"

namespace bora {

TaskPool::TaskPool(int n_threads, size_t max_num_waiting)
    : max_num_waiting_(max_num_waiting), tasks_(max_num_waiting) {
  for (int i = 0; i < n_threads; ++i) {
    threads_.emplace_back([this] {
      while (std::optional<std::function<void()>> task = tasks_.PopUntil(absl::InfiniteFuture())) {
        (*task)();
      }
    });
  }
}

TaskPool::~TaskPool() {
  tasks_.Close();
  for (std::thread& thread : threads_) thread.join();
}

bool TaskPool::TryRun(std::function<void()> task) { return tasks_.TryPush(std::move(task)); }

}  // namespace bora

// Threads for work that would hold up a gRPC thread: tokenizing large texts.
#pragma once

#include <cstddef>
#include <functional>
#include <thread>
#include <vector>

#include "base/mailbox.h"

namespace bora {

// Thread-safe.
class TaskPool {
 public:
  TaskPool(int n_threads, size_t max_num_waiting);
  // Runs what is waiting, then joins the threads.
  ~TaskPool();

  // Runs the task on one of the threads, soon. False: too many are waiting, and it is not run.
  bool TryRun(std::function<void()> task);

  size_t max_num_waiting() const { return max_num_waiting_; }

 private:
  const size_t max_num_waiting_;
  Mailbox<std::function<void()>> tasks_;
  std::vector<std::thread> threads_;
};

}  // namespace bora

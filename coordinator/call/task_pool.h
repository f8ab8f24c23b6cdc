// Threads for work that would hold up a transport's thread: parsing and tokenizing large requests.
//
// Prompts of Generate calls and texts of other calls have queues and threads of their own, so that
// no number of Tokenize calls keeps a prompt waiting. Texts have one thread, which gives way to all
// others of the machine: streams must not pause because a client counts tokens.
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
  enum class Kind { kPrompt, kText };

  // At most max_waiting_prompts tasks of kPrompt and max_waiting_texts of kText wait for a thread.
  TaskPool(int n_prompt_threads, size_t max_waiting_prompts, size_t max_waiting_texts);
  // Runs the tasks that wait, then joins the threads.
  ~TaskPool();

  // Runs the task on a thread for its kind, soon; tasks of a kind begin in the order in which they
  // came. False if too many tasks of its kind wait; the task is not run then.
  bool TryRun(Kind kind, std::function<void()> task);

  size_t max_num_waiting(Kind kind) const {
    return kind == Kind::kPrompt ? max_waiting_prompts_ : max_waiting_texts_;
  }

 private:
  using Tasks = Mailbox<std::function<void()>>;

  const size_t max_waiting_prompts_;
  const size_t max_waiting_texts_;
  Tasks prompts_;
  Tasks texts_;
  std::vector<std::thread> threads_;
};

}  // namespace bora

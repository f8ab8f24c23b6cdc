// Threads for work that would block a transport's thread for too long: parsing and tokenizing large
// requests.
//
// Prompts of generating calls and texts of all other calls have separate queues and threads, so
// that no number of Tokenize calls delays a prompt. Texts have one thread of low priority: streams
// must not pause because a client counts tokens.
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
  // kPrompt: a request of Generate or GenerateStream; kText: any other.
  enum class Kind { kPrompt, kText };

  // Starts n_prompt_threads threads for kPrompt and one for kText. At most max_waiting_prompts
  // tasks of kPrompt and max_waiting_texts tasks of kText may wait for a thread.
  TaskPool(int n_prompt_threads, size_t max_waiting_prompts, size_t max_waiting_texts);
  // Runs the tasks that wait, then joins the threads.
  ~TaskPool();

  // Runs the task later, on a thread for its kind; tasks of a kind begin in the order of TryRun.
  // Returns false, and does not run the task, if too many tasks of its kind wait.
  bool TryRun(Kind kind, std::function<void()> task);

  // How many tasks of the kind may wait for a thread.
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

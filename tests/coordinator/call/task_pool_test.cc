#include "coordinator/call/task_pool.h"

#include <gtest/gtest.h>
#include <sys/resource.h>

#include <atomic>

#include "absl/synchronization/notification.h"

namespace bora {
namespace {

using Kind = TaskPool::Kind;

TEST(TaskPoolTest, TextsThatWaitKeepNoPromptWaiting) {
  absl::Notification begun, go_on, prompt_ran;
  std::atomic<int> n_texts = 0;
  {
    TaskPool pool(/*n_prompt_threads=*/1, /*max_waiting_prompts=*/5, /*max_waiting_texts=*/2);
    ASSERT_TRUE(pool.TryRun(Kind::kText, [&] {
      begun.Notify();
      go_on.WaitForNotification();
      ++n_texts;
    }));
    begun.WaitForNotification();
    EXPECT_TRUE(pool.TryRun(Kind::kText, [&] { ++n_texts; }));
    EXPECT_TRUE(pool.TryRun(Kind::kText, [&] { ++n_texts; }));
    EXPECT_FALSE(pool.TryRun(Kind::kText, [&] { ++n_texts; }));
    EXPECT_TRUE(pool.TryRun(Kind::kPrompt, [&] { prompt_ran.Notify(); }));
    prompt_ran.WaitForNotification();
    EXPECT_EQ(n_texts, 0);
    go_on.Notify();
  }
  EXPECT_EQ(n_texts, 3);
}

TEST(TaskPoolTest, TextsGiveWayToAllOtherThreads) {
  const int own = getpriority(PRIO_PROCESS, 0);
  std::atomic<int> of_prompts = -1;
  std::atomic<int> of_texts = -1;
  {
    TaskPool pool(1, 5, 2);
    ASSERT_TRUE(pool.TryRun(Kind::kPrompt, [&] { of_prompts = getpriority(PRIO_PROCESS, 0); }));
    ASSERT_TRUE(pool.TryRun(Kind::kText, [&] { of_texts = getpriority(PRIO_PROCESS, 0); }));
  }
  EXPECT_EQ(of_prompts, own);
  EXPECT_EQ(of_texts, std::min(19, own + 10));
  EXPECT_EQ(getpriority(PRIO_PROCESS, 0), own);
}

}  // namespace
}  // namespace bora

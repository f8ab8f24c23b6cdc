#include "tests/cuda_host/fiber.h"

#include <sys/mman.h>

#include <cstddef>
#include <cstdint>

#include "base/check.h"

#if !defined(__x86_64__) || defined(BORA_CUDA_HOST_UCONTEXT)
#define BORA_FIBER_UCONTEXT 1
#include <ucontext.h>
#else
#define BORA_FIBER_UCONTEXT 0
#endif

// Absent (null) unless the program is linked with AddressSanitizer.
extern "C" {
__attribute__((weak)) void __sanitizer_start_switch_fiber(void** fake_stack, const void* bottom,
                                                          size_t bytes);
__attribute__((weak)) void __sanitizer_finish_switch_fiber(void* fake_stack, const void** bottom,
                                                           size_t* bytes);
}

namespace bora::cuda_host {
namespace {

// The largest frame seen in an attention kernel under ASan and UBSan was 1.8 KB.
constexpr size_t kStackBytes = 64 * 1024;
constexpr size_t kGuardBytes = 4096;
constexpr size_t kSlotBytes = kStackBytes + kGuardBytes;

#if BORA_FIBER_UCONTEXT
// swapcontext saves the signal mask: two system calls, some 250 ns a switch.
using Context = ucontext_t;

void PrepareContext(Context& context, uint8_t* stack, void (*entry)()) {
  getcontext(&context);
  context.uc_stack.ss_sp = stack;
  context.uc_stack.ss_size = kStackBytes;
  context.uc_link = nullptr;
  makecontext(&context, entry, 0);
}

void SwitchContext(Context& from, Context& to) { swapcontext(&from, &to); }
#else
// The stack pointer; everything else that a call must preserve lies on the stack.
using Context = void*;

extern "C" void BoraCudaHostSwitch(void** from, void* to);
asm(R"(
.text
.globl BoraCudaHostSwitch
.type BoraCudaHostSwitch, @function
BoraCudaHostSwitch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size BoraCudaHostSwitch, .-BoraCudaHostSwitch
)");

void PrepareContext(Context& context, uint8_t* stack, void (*entry)()) {
  // Six registers, the entry and a return address of null above it: entry begins with the stack
  // pointer at 8 modulo 16, as after a call.
  auto* words = reinterpret_cast<uintptr_t*>(stack + kStackBytes) - 8;
  for (int i = 0; i < 8; ++i) words[i] = 0;
  words[6] = reinterpret_cast<uintptr_t>(entry);
  context = words;
}

void SwitchContext(Context& from, Context& to) { BoraCudaHostSwitch(&from, to); }
#endif

struct Fiber {
  Context context = {};
  void (*entry)() = nullptr;
  void* fake_stack = nullptr;  // AddressSanitizer's
  bool guarded = false;
};

// One mapping for all stacks, committed page by page as they are touched.
uint8_t* Stacks() {
  static uint8_t* const stacks = [] {
    void* memory = mmap(nullptr, kMaxFibers * kSlotBytes, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    CHECK(memory != MAP_FAILED) << "no address space for the stacks of fibers";
    return static_cast<uint8_t*>(memory);
  }();
  return stacks;
}

uint8_t* StackOf(int fiber_idx) {
  return Stacks() + static_cast<size_t>(fiber_idx) * kSlotBytes + kGuardBytes;
}

Fiber fibers[kMaxFibers];
Context scheduler_context = {};
const void* scheduler_stack = nullptr;
size_t scheduler_stack_bytes = 0;
int running_idx = -1;

void BeginSwitch(void** fake_stack, const void* bottom, size_t bytes) {
  if (__sanitizer_start_switch_fiber != nullptr) {
    __sanitizer_start_switch_fiber(fake_stack, bottom, bytes);
  }
}

void FinishSwitch(void* fake_stack, const void** bottom, size_t* bytes) {
  if (__sanitizer_finish_switch_fiber != nullptr) {
    __sanitizer_finish_switch_fiber(fake_stack, bottom, bytes);
  }
}

void FiberMain() {
  FinishSwitch(nullptr, &scheduler_stack, &scheduler_stack_bytes);
  fibers[running_idx].entry();
  EndFiber();
}

}  // namespace

void StartFiber(int fiber_idx, void (*entry)()) {
  CHECK(fiber_idx >= 0 && fiber_idx < kMaxFibers) << "fiber " << fiber_idx;
  Fiber& fiber = fibers[fiber_idx];
  uint8_t* stack = StackOf(fiber_idx);
  if (!fiber.guarded) {
    CHECK_EQ(mprotect(stack - kGuardBytes, kGuardBytes, PROT_NONE), 0);
    fiber.guarded = true;
  }
  fiber.entry = entry;
  fiber.fake_stack = nullptr;
  PrepareContext(fiber.context, stack, FiberMain);
}

void ResumeFiber(int fiber_idx) {
  running_idx = fiber_idx;
  void* fake_stack = nullptr;
  BeginSwitch(&fake_stack, StackOf(fiber_idx), kStackBytes);
  SwitchContext(scheduler_context, fibers[fiber_idx].context);
  FinishSwitch(fake_stack, nullptr, nullptr);
  running_idx = -1;
}

void SuspendFiber() {
  Fiber& fiber = fibers[running_idx];
  BeginSwitch(&fiber.fake_stack, scheduler_stack, scheduler_stack_bytes);
  SwitchContext(fiber.context, scheduler_context);
  FinishSwitch(fiber.fake_stack, &scheduler_stack, &scheduler_stack_bytes);
}

void EndFiber() {
  Fiber& fiber = fibers[running_idx];
  BeginSwitch(nullptr, scheduler_stack, scheduler_stack_bytes);
  SwitchContext(fiber.context, scheduler_context);
  __builtin_unreachable();
}

bool OnFiberStack(const void* address) {
  const auto offset = reinterpret_cast<uintptr_t>(address) - reinterpret_cast<uintptr_t>(Stacks());
  return offset < kMaxFibers * kSlotBytes;
}

}  // namespace bora::cuda_host

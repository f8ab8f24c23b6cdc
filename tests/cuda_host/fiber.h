// Fibers on one OS thread: stacks that the scheduler switches to and that switch back to it. Fiber
// stacks have a guard page below and are reused; sanitizers are told about every switch when the
// program is linked with AddressSanitizer. Single-threaded.
#pragma once

namespace bora::cuda_host {

// CUDA's limit on the threads of a block.
inline constexpr int kMaxFibers = 1024;

// Makes fiber fiber_idx (in [0, kMaxFibers)) run entry at its next resumption. It must have ended,
// or never begun.
void StartFiber(int fiber_idx, void (*entry)());

// Called by the scheduler: runs the fiber until it suspends itself or ends.
void ResumeFiber(int fiber_idx);

// Called by the running fiber.
void SuspendFiber();
[[noreturn]] void EndFiber();

// Whether the address lies in the stack of any fiber.
bool OnFiberStack(const void* address);

}  // namespace bora::cuda_host

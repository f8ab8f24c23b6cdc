// Asynchronous copies from global to shared memory, in the two orders that CUDA allows at the
// extremes: early (RunOptions::eager_copies), when they are issued, and late, when their thread
// waits for them; their destination is inaccessible in between.
#pragma once

#include "tests/cuda_host/block.h"

namespace bora::cuda_host {

// Called by the scheduler: no copy is in flight. Copies that nobody waited for never happen.
void BeginCopies(int n_threads);

}  // namespace bora::cuda_host

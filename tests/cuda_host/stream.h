// Streams of programs that run kernels on the CPU. What is queued runs at once or, with
// RunOptions::eager_copies off, when somebody waits for it: the two extremes that CUDA allows.
#pragma once

#include <functional>

struct CUstream_st;

namespace bora::cuda_host {

// Queues work: on a stream that is being captured it becomes part of the graph. On the null stream
// it runs now, after all other work of this thread's streams.
void Submit(CUstream_st* stream, std::function<void()> work);

// Queues work that is tried again until it returns true; false says that it cannot go on yet. It
// must not block.
void SubmitTry(CUstream_st* stream, std::function<bool()> try_work);

}  // namespace bora::cuda_host

// Streams of programs that run kernels on the CPU. What is queued runs at once or, with
// RunOptions::eager_copies off, when somebody waits for it: the two extremes that CUDA allows.
//
// A stream is its thread's own. Whoever waits for one of them lets all of the thread's streams go
// on, one after another, since one may wait for another's event. Streams of several threads take
// turns: one piece of work runs at a time in a process.
#pragma once

#include <functional>

struct CUstream_st;

namespace bora::cuda_host {

// Queues work: on a stream that is being captured it becomes part of the graph. On the null stream
// it runs now, whatever is queued on others.
void Submit(CUstream_st* stream, std::function<void()> work);

// Queues work that is tried again and again until it returns true; false: it cannot go on yet. It
// must not block. What is behind it on the stream waits. A graph runs the same function at every
// launch, so one that has returned true must be ready to begin anew. Not on the null stream.
void SubmitTry(CUstream_st* stream, std::function<bool()> try_work);

// Waits until all that is queued on the stream has run, and lets all streams of its thread go on
// meanwhile: that thread may wait, too. Returns at once if there is no such stream.
void RunQueued(CUstream_st* stream);

}  // namespace bora::cuda_host

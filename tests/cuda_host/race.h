// Finds data races and reads of memory that was never written, by vector clocks (FastTrack,
// Flanagan & Freund 2009) and a record per 2 bytes of who wrote and who read last. Kernels compiled
// with -fsanitize=thread call its hooks at every access; without that, all of this does nothing.
// The stock runtime library is not linked: it knows neither blocks nor shared memory.
//
// Barriers and __syncwarp order memory; shuffles, votes, ldmatrix and mma do not. Blocks of a
// launch are never ordered, launches always. Atomic operations are no race with one another, and
// order nothing.
#pragma once

#include <cstdint>

namespace bora::cuda_host {

// Whether a kernel of this program is instrumented for it.
bool HasRaceDetector();

// Called by the scheduler.
void BeginRaceLaunch();
void BeginRaceBlock(int n_threads);
// The running block's threads, or those of the mask in the running thread's warp, have met.
void JoinAllClocks();
void JoinWarpClocks(unsigned mask);

// An access by an instruction that the compiler does not see, on behalf of a thread of the running
// block. pc: where in the kernel.
void RecordRead(int thread_idx, const void* address, int64_t n_bytes, const void* pc);
void RecordWrite(int thread_idx, const void* address, int64_t n_bytes, const void* pc);
void RecordAtomic(int thread_idx, const void* address, int64_t n_bytes, const void* pc);

// Says whether memory has defined contents: reading memory that has none is an error until it is
// written. Memory counts as written unless told otherwise; tell before it is freed, too.
void SetWritten(const void* address, int64_t n_bytes, bool written);

}  // namespace bora::cuda_host

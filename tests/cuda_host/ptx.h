// The instructions of kernels/cuda/runtime/ptx.h, with its contracts, on the CPU. Each takes a
// hidden place for messages.
#pragma once

#include <cstdint>

#include "tests/cuda_host/block.h"

namespace bora {
namespace cuda_host {

void Ldmatrix(uint32_t (&out)[4], const void* row, bool transposed, Place place);
void Mma(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], Place place);
void CpAsync(void* shared, const void* global, int n_bytes, Place place);
void CpAsyncCommit();
void CpAsyncWait(int n_newest);
float Ex2(float x);
uint32_t CvtBf16x2(float low, float high);

// The shared memory cycles of ldmatrix since the last reset: a phase reads the 8 rows of a matrix
// in one cycle, and one more for every further row that a bank must serve.
struct BankCounts {
  int64_t n_phases = 0;
  int64_t n_extra_cycles = 0;
};
void ResetBankCounts();
BankCounts bank_counts();

}  // namespace cuda_host

inline void LoadMatrices(uint32_t (&out)[4], const void* row, const char* file = __builtin_FILE(),
                         int line = __builtin_LINE()) {
  cuda_host::Ldmatrix(out, row, false, {file, line});
}

inline void LoadMatricesTransposed(uint32_t (&out)[4], const void* row,
                                   const char* file = __builtin_FILE(),
                                   int line = __builtin_LINE()) {
  cuda_host::Ldmatrix(out, row, true, {file, line});
}

inline void MultiplyAddBf16(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                            const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  cuda_host::Mma(c, a, b, {file, line});
}

inline void CopyAsync16(void* shared, const void* global, int n_bytes = 16,
                        const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  cuda_host::CpAsync(shared, global, n_bytes, {file, line});
}

inline void CommitCopies() { cuda_host::CpAsyncCommit(); }

template <int kNewest>
void AwaitCopies() {
  cuda_host::CpAsyncWait(kNewest);
}

inline uint32_t PackBf16(float low, float high) { return cuda_host::CvtBf16x2(low, high); }

inline float Exp2(float x) { return cuda_host::Ex2(x); }

}  // namespace bora

// Instructions that C++ cannot express, one function each, for a GPU. tests/cuda_host/ptx.h has
// their counterparts for the CPU. Addresses are generic; matrices have 16-bit elements. Source: the
// PTX ISA, sections on ldmatrix, mma.m16n8k16 and cp.async.
//
// Which elements of a matrix a lane holds, with group = lane / 4 and pair = lane % 4 * 2. A
// register of two elements has the one with the lower index in its low half:
//   8x8 of ldmatrix        [group][pair, pair + 1]; transposed: [pair, pair + 1][group]
//   A, 16x16: a[0] [group][pair..]      a[1] [group + 8][pair..]
//             a[2] [group][pair + 8..]  a[3] [group + 8][pair + 8..]
//   B, 16x8:  b[0] [pair..][group]      b[1] [pair + 8..][group]
//   C, 16x8:  c[0], c[1] [group][pair..]  c[2], c[3] [group + 8][pair..]
#pragma once

#include <cstdint>

namespace bora {

// The address within shared memory of a generic address.
__device__ inline uint32_t SharedAddress(const void* shared) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(shared));
}

// Loads four 8x8 matrices from shared memory. Lane 8 m + i passes the address of row i of matrix m:
// 8 elements, 16-byte aligned. The whole warp calls it. It orders nothing: elements that other
// lanes have written need a __syncwarp before.
__device__ inline void LoadMatrices(uint32_t (&out)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
               : "r"(SharedAddress(row))
               : "memory");
}

// LoadMatrices with each matrix transposed.
__device__ inline void LoadMatricesTransposed(uint32_t (&out)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
               : "r"(SharedAddress(row))
               : "memory");
}

// c += A B for bf16 A and B, with float sums added in an order that NVIDIA does not document. The
// whole warp calls it.
__device__ inline void MultiplyAddBf16(float (&c)[4], const uint32_t (&a)[4],
                                       const uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// Begins to copy 16 bytes from global to shared memory, both 16-byte aligned. The first n_bytes (0
// to 16) come from `global`, the others are zero; with n_bytes = 0 `global` is not read.
__device__ inline void CopyAsync16(void* shared, const void* global, int n_bytes = 16) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(SharedAddress(shared)),
               "l"(__cvta_generic_to_global(global)), "r"(n_bytes)
               : "memory");
}

// Ends a group of copies: those that the thread has begun since the group before.
__device__ inline void CommitCopies() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Waits for all of the thread's groups of copies except the newest kNewest. The copied bytes are
// then visible to the thread itself, and to other threads after a barrier.
template <int kNewest>
__device__ inline void AwaitCopies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kNewest) : "memory");
}

// Both numbers rounded to bf16 in one register, `low` in the low half.
__device__ inline uint32_t PackBf16(float low, float high) {
  uint32_t packed;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
  return packed;
}

// 2^x within 2 units in the last place; results below 2^-126 are 0.
__device__ inline float Exp2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

}  // namespace bora

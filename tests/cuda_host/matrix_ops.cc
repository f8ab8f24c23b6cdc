// ldmatrix, mma.m16n8k16 and ex2, after the tables in kernels/cuda/runtime/ptx.h.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>

#include "base/bf16.h"
#include "tests/cuda_host/block.h"
#include "tests/cuda_host/ptx.h"
#include "tests/cuda_host/race.h"

namespace bora::cuda_host {
namespace {

BankCounts counts;

struct LoadRecord {
  uint32_t* out;
  const void* row;
  bool transposed;
  Place place;
  const void* pc;
  int thread_idx;
};

// A phase's rows of 16 bytes fall into 8 groups of 4 banks; each group serves one row a cycle.
void CountPhase(void* const* records) {
  int n_rows[8] = {};
  const void* seen[8];
  int most = 0;
  for (int i = 0; i < 8; ++i) {
    seen[i] = static_cast<const LoadRecord*>(records[i])->row;
    // The same row twice is read once.
    if (std::find(seen, seen + i, seen[i]) != seen + i) continue;
    most = std::max(most, ++n_rows[reinterpret_cast<uintptr_t>(seen[i]) / 16 % 8]);
  }
  ++counts.n_phases;
  counts.n_extra_cycles += most - 1;
}

void CombineLoad(void* const* records, unsigned) {
  for (int matrix = 0; matrix < 4; ++matrix) {
    uint16_t elements[8][8];
    for (int i = 0; i < 8; ++i) {
      const auto& record = *static_cast<const LoadRecord*>(records[8 * matrix + i]);
      const std::string who = "ldmatrix, row of lane " + std::to_string(8 * matrix + i);
      if (reinterpret_cast<uintptr_t>(record.row) % 16 != 0) {
        Fail(record.place, who + " is not 16-byte aligned");
      }
      if (!InSharedArray(record.row, 16)) Fail(record.place, who + " is not in a shared array");
      if (FirstPoisoned(record.row, 16) != nullptr) {
        Fail(record.place, who + " is still being copied");
      }
      RecordRead(record.thread_idx, record.row, 16, record.pc);
      std::memcpy(elements[i], record.row, 16);
    }
    CountPhase(records + static_cast<ptrdiff_t>(8) * matrix);
    for (int lane = 0; lane < kWarpSize; ++lane) {
      const auto& record = *static_cast<const LoadRecord*>(records[lane]);
      const int group = lane / 4, pair = lane % 4 * 2;
      const uint16_t low = record.transposed ? elements[pair][group] : elements[group][pair];
      const uint16_t high =
          record.transposed ? elements[pair + 1][group] : elements[group][pair + 1];
      record.out[matrix] = low | uint32_t{high} << 16;
    }
  }
}

struct MultiplyRecord {
  float* c;
  const uint32_t* a;
  const uint32_t* b;
};

float LowHalf(uint32_t pair) { return ToFloat(Bf16{static_cast<uint16_t>(pair)}); }
float HighHalf(uint32_t pair) { return ToFloat(Bf16{static_cast<uint16_t>(pair >> 16)}); }

void CombineMultiply(void* const* records, unsigned) {
  float a[16][16], b[8][16];  // b transposed, so that the products walk along rows
  for (int lane = 0; lane < kWarpSize; ++lane) {
    const auto& record = *static_cast<const MultiplyRecord*>(records[lane]);
    const int group = lane / 4, pair = lane % 4 * 2;
    for (int i = 0; i < 4; ++i) {
      const int row = group + i % 2 * 8, col = pair + i / 2 * 8;
      a[row][col] = LowHalf(record.a[i]);
      a[row][col + 1] = HighHalf(record.a[i]);
    }
    for (int i = 0; i < 2; ++i) {
      b[group][pair + 8 * i] = LowHalf(record.b[i]);
      b[group][pair + 8 * i + 1] = HighHalf(record.b[i]);
    }
  }
  for (int lane = 0; lane < kWarpSize; ++lane) {
    const auto& record = *static_cast<const MultiplyRecord*>(records[lane]);
    for (int i = 0; i < 4; ++i) {
      const int row = lane / 4 + i / 2 * 8, col = lane % 4 * 2 + i % 2;
      float sum = record.c[i];
      for (int k = 0; k < 16; ++k) sum += a[row][k] * b[col][k];
      record.c[i] = sum;
    }
  }
}

}  // namespace

void Ldmatrix(uint32_t (&out)[4], const void* row, bool transposed, Place place) {
  LoadRecord record = {out, row, transposed, place, __builtin_return_address(0), CurrentThread()};
  Rendezvous(transposed ? "ldmatrix.trans" : "ldmatrix", kFullMask, &record, CombineLoad, place);
}

void Mma(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], Place place) {
  MultiplyRecord record = {c, a, b};
  Rendezvous("mma", kFullMask, &record, CombineMultiply, place);
}

float Ex2(float x) {
  const float y = std::exp2(x);
  return y < 0x1p-126f ? 0.0f : y;
}

uint32_t CvtBf16x2(float low, float high) {
  return ToBf16(low).bits | uint32_t{ToBf16(high).bits} << 16;
}

void ResetBankCounts() { counts = {}; }
BankCounts bank_counts() { return counts; }

}  // namespace bora::cuda_host

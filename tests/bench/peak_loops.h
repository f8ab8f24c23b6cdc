// The quickest loops of this machine for reading memory and for multiply-adds in registers: what
// other figures are read as fractions of.
#pragma once

#include <cstdint>
#include <optional>

namespace bora {

// Independent chains of a loop: enough to hide the latency of a multiply-add (4 cycles, up to two a
// cycle) and few enough for 16 vector registers of AVX2 with two constants.
inline constexpr int kPeakChains = 12;

// Does n_loops * kPeakChains instructions.
struct PeakLoop {
  const char* unit = "";
  int operations = 0;  // of one instruction: lanes times products in a lane times two
  void (*run)(int64_t n_loops) = nullptr;
};

struct PeakLoops {
  std::optional<PeakLoop> fp32;  // fused multiply-adds in the widest vectors
  std::optional<PeakLoop> bf16;  // vdpbf16ps
  std::optional<PeakLoop> int8;  // vpdpbusd
};
PeakLoops ThisMachinesPeakLoops();

// Sums [data, data + n) in the widest vectors, asking for memory `ahead` bytes early (0: not). data
// is 64-byte aligned, n a multiple of 256.
void ReadMemory(const uint8_t* data, int64_t n, int64_t ahead);

// Which distance is best depends on the machine: a limit is the best of these.
inline constexpr int64_t kPrefetchBytes[] = {0, 1024, 4096};

}  // namespace bora

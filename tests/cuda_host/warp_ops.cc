// What the lanes of a warp do together. Lanes meet in Rendezvous; the functions here see the
// records of all of them.
#include <string>

#include "tests/cuda_host/block.h"
#include "tests/cuda_host/language.h"
#include "tests/cuda_host/race.h"

namespace bora::cuda_host {
namespace {

struct ShuffleRecord {
  ShuffleKind kind;
  uint64_t value;
  int operand;
  int width;
  Place place;
  uint64_t result;
};

// The lane that a lane reads, by the PTX definition of shfl: its own where the other is outside its
// segment of `width` lanes.
int SourceLane(int lane, const ShuffleRecord& record) {
  const int first = lane / record.width * record.width;
  const int last = first + record.width - 1;
  switch (record.kind) {
    case ShuffleKind::kIndex:
      return first + (record.operand & (record.width - 1));
    case ShuffleKind::kUp:
      return lane - record.operand >= first ? lane - record.operand : lane;
    case ShuffleKind::kDown:
      return lane + record.operand <= last ? lane + record.operand : lane;
    case ShuffleKind::kXor:
      return (lane ^ record.operand) <= last ? lane ^ record.operand : lane;
  }
  return lane;
}

void CombineShuffle(void* const* records, unsigned mask) {
  for (int lane = 0; lane < kWarpSize; ++lane) {
    if ((mask >> lane & 1) == 0) continue;
    auto& record = *static_cast<ShuffleRecord*>(records[lane]);
    const int source = SourceLane(lane, record);
    if ((mask >> source & 1) == 0) {
      Fail(record.place, "lane " + std::to_string(lane) + " reads lane " + std::to_string(source) +
                             ", which is not in the mask");
    }
    record.result = static_cast<const ShuffleRecord*>(records[source])->value;
  }
}

struct BallotRecord {
  bool predicate;
  unsigned result;
};

void CombineBallot(void* const* records, unsigned mask) {
  unsigned votes = 0;
  for (int lane = 0; lane < kWarpSize; ++lane) {
    if ((mask >> lane & 1) == 0) continue;
    votes |= unsigned{static_cast<const BallotRecord*>(records[lane])->predicate} << lane;
  }
  for (int lane = 0; lane < kWarpSize; ++lane) {
    if ((mask >> lane & 1) != 0) static_cast<BallotRecord*>(records[lane])->result = votes;
  }
}

void CombineWarpBarrier(void* const*, unsigned mask) { JoinWarpClocks(mask); }

const char* ShuffleName(ShuffleKind kind) {
  switch (kind) {
    case ShuffleKind::kIndex:
      return "__shfl_sync";
    case ShuffleKind::kUp:
      return "__shfl_up_sync";
    case ShuffleKind::kDown:
      return "__shfl_down_sync";
    case ShuffleKind::kXor:
      return "__shfl_xor_sync";
  }
  return "";
}

}  // namespace

uint64_t Shuffle(ShuffleKind kind, unsigned mask, uint64_t value, int operand, int width,
                 Place place) {
  ShuffleRecord record = {kind, value, operand, width, place, 0};
  Rendezvous(ShuffleName(kind), mask, &record, CombineShuffle, place);
  return record.result;
}

unsigned Ballot(unsigned mask, bool predicate, Place place) {
  BallotRecord record = {predicate, 0};
  Rendezvous("__ballot_sync", mask, &record, CombineBallot, place);
  return record.result;
}

void WarpBarrier(unsigned mask, Place place) {
  char record = 0;
  Rendezvous("__syncwarp", mask, &record, CombineWarpBarrier, place);
}

}  // namespace bora::cuda_host

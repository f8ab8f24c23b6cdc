// Atomic operations: threads take turns here, so they only have to be known as such.
#include <string>

#include "tests/cuda_host/block.h"
#include "tests/cuda_host/language.h"
#include "tests/cuda_host/race.h"

namespace bora::cuda_host {

uint32_t AtomicAdd(uint32_t* address, uint32_t value, Place place) {
  if (reinterpret_cast<uintptr_t>(address) % sizeof(value) != 0) {
    Fail(place, "atomicAdd is not aligned");
  }
  if (FirstPoisoned(address, sizeof(value)) != nullptr) {
    Fail(place, "atomicAdd outside of an array");
  }
  RecordAtomic(CurrentThread(), address, sizeof(value), __builtin_return_address(0));
  const uint32_t before = *address;
  *address = before + value;
  return before;
}

}  // namespace bora::cuda_host

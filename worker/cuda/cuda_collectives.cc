#include "worker/cuda/cuda_collectives.h"

#include <algorithm>

#include "base/check.h"
#include "base/int_math.h"
#include "base/status_macros.h"
#include "kernels/cuda/sum_parts.h"

namespace bora {
namespace {

// Up to this many floats every rank receives the data of all ranks and sums all of it: one
// exchange, of tp_size times the bytes. Above it each rank sums one share, and the sums are
// gathered: two exchanges, of together twice the bytes. 256 KiB are 16 tokens of 4096 floats, at
// which latency and bytes cost about the same on NVLink.
constexpr int64_t kMaxDirectFloats = int64_t{64} << 10;

}  // namespace

int64_t CudaCollectives::ScratchBytes(int tp_size, int64_t max_floats) {
  if (tp_size == 1) return 0;
  // Direct: the data of all ranks. Above: one share of the data of each rank, together max_floats.
  const int64_t direct = tp_size * std::min(max_floats, kMaxDirectFloats);
  return std::max(direct, max_floats) * static_cast<int64_t>(sizeof(float));
}

CudaCollectives::CudaCollectives(CudaDevice* device, NcclCommunicator* tensor,
                                 const RankPlace& place, bool deterministic, uint8_t* scratch)
    : device_(device),
      tensor_(tensor),
      tp_size_(place.tp_size),
      tp_rank_(place.tp_rank),
      deterministic_(deterministic),
      scratch_(reinterpret_cast<float*>(scratch)) {
  CHECK(tp_size_ == 1 || tensor_ != nullptr);
}

absl::Status CudaCollectives::AllReduceSum(absl::Span<float> data) {
  if (tp_size_ == 1 || data.empty()) return absl::OkStatus();
  CUstream_st* const stream = device_->stream();
  const int64_t n = static_cast<int64_t>(data.size());
  if (!deterministic_) return tensor_->AllReduceSum(stream, data.data(), n);
  if (n <= kMaxDirectFloats) {
    RETURN_IF_ERROR(tensor_->AllGather(stream, data.data(), scratch_, n));
    SumParts(*device_, tp_size_, n, scratch_, data.data());
    return absl::OkStatus();
  }
  const int64_t n_share = DivExact(n, int64_t{tp_size_});
  float* const share = data.data() + tp_rank_ * n_share;
  RETURN_IF_ERROR(tensor_->AllToAll(stream, data.data(), scratch_, n_share));
  SumParts(*device_, tp_size_, n_share, scratch_, share);
  return tensor_->AllGather(stream, share, data.data(), n_share);
}

absl::Status CudaCollectives::GatherToFirst(absl::Span<const float> local, absl::Span<float> all) {
  return tensor_->GatherTo(device_->stream(), /*root=*/0, local.data(), all.data(),
                           static_cast<int64_t>(local.size()));
}

}  // namespace bora

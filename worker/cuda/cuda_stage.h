// A stage on a GPU: what worker/stage/stage.h asks of a device.
#pragma once

#include "kernels/cuda/runtime/cuda_device.h"
#include "kernels/cuda/runtime/cuda_runtime.h"
#include "worker/cuda/cuda_collectives.h"
#include "worker/stage/stage.h"

namespace bora {

// StepTokensView::attention_work must be set; all arrays of the view are in device memory.
template <>
struct StageTraits<CudaDevice> {
  using Input = Bf16;
  using Buffer = CudaBuffer;
  using Rope = RopeTableView;
  using Collectives = CudaCollectives;
  // 256 rows of 32,000 logits are 33 MB; more rows than a step of decoding has.
  static constexpr int64_t kHeadTileRows = 256;

  static WorkspaceForm Form(const CudaDevice& device) {
    return {.input_bytes = sizeof(Input),
            .head_tile_rows = kHeadTileRows,
            .keeps_gate_up = device.matrix_library() != nullptr};
  }
  static absl::StatusOr<CudaBuffer> Allocate(int64_t n_bytes, absl::string_view what) {
    return CudaBuffer::Allocate(n_bytes, what);
  }
  static absl::StatusOr<CudaBuffer> AllocateKv(int64_t n_bytes) {
    return CudaBuffer::Allocate(n_bytes, "KV cache");
  }
  static void FillWithNan(CudaDevice& device, const CudaBuffer& buffer);
  static absl::Status ReserveScratch(CudaDevice& device, const StageScratchShape& shape,
                                     CudaBuffer* buffer);
  static void Attend(CudaDevice& device, const StepTokensView& tokens, int64_t local_n_heads,
                     const float* qkv, const KvLayerView& cache, Bf16* out);
};

// Bytes of scratch that a stage's operations take at most. Also of the operations that follow the
// stage on the device: sampling of up to kHeadTileRows rows.
int64_t CudaScratchBytes(const CudaDevice& device, const StageScratchShape& shape);

extern template class Stage<CudaDevice>;

}  // namespace bora

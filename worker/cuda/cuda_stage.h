// A stage on a GPU: the specialisation of StageTraits (worker/stage/stage.h) for CudaDevice.
#pragma once

#include "kernels/cuda/runtime/cuda_device.h"
#include "kernels/cuda/runtime/cuda_runtime.h"
#include "worker/cuda/cuda_collectives.h"
#include "worker/stage/stage.h"

namespace bora {

// All operations are queued on the device's stream. The StepTokensView that RunLayers is given must
// have attention_work set; all its arrays are in device memory.
template <>
struct StageTraits<CudaDevice> {
  using Input = Bf16;
  using Buffer = CudaBuffer;
  using Rope = RopeTableView;
  using Collectives = CudaCollectives;
  // 256 rows of 32,000 logits are 33 MB. A decoding graph has no more rows, thus one tile.
  static constexpr int64_t kHeadTileRows = 256;

  static WorkspaceForm Form(const CudaDevice& device) {
    return {.input_bytes = sizeof(Input),
            .head_tile_rows = kHeadTileRows,
            .keeps_gate_up = device.matrix_library() != nullptr};
  }
  // RESOURCE_EXHAUSTED names the memory that is missing, here and in AllocateKv.
  static absl::StatusOr<CudaBuffer> Allocate(int64_t n_bytes, absl::string_view what) {
    return CudaBuffer::Allocate(n_bytes, what);
  }
  static absl::StatusOr<CudaBuffer> AllocateKv(int64_t n_bytes) {
    return CudaBuffer::Allocate(n_bytes, "KV cache");
  }
  static void FillWithNan(CudaDevice& device, const CudaBuffer& buffer);
  // Allocates *buffer, unless it is large enough, and makes it the device's scratch.
  static absl::Status ReserveScratch(CudaDevice& device, const StageScratchShape& shape,
                                     CudaBuffer* buffer);
  static void Attend(CudaDevice& device, const StepTokensView& tokens, int64_t local_n_heads,
                     const float* qkv, const KvLayerView& cache, Bf16* out);
};

// Bytes of scratch that the operations of a stage of this shape take at most, sampling of up to
// kHeadTileRows rows included.
int64_t CudaScratchBytes(const CudaDevice& device, const StageScratchShape& shape);

extern template class Stage<CudaDevice>;

}  // namespace bora

// Loads the code of every kernel onto the calling thread's GPU. CUDA does so at a kernel's first
// launch otherwise, which may wait for all that runs on the GPU: in a group for NCCL's kernels,
// which wait for peers.
#pragma once

namespace bora {

// Each file of kernels loads its own.
void LoadAddRmsNormKernels();
void LoadEmbedKernels();
void LoadJoinColumnsKernels();
void LoadMatMulKernels();
void LoadPagedAttentionKernels();
void LoadRopeStoreKvKernels();
void LoadSampleKernels();
void LoadSiluMulKernels();
void LoadStepDeltasKernels();
void LoadSumPartsKernels();

inline void LoadAllKernels() {
  LoadAddRmsNormKernels();
  LoadEmbedKernels();
  LoadJoinColumnsKernels();
  LoadMatMulKernels();
  LoadPagedAttentionKernels();
  LoadRopeStoreKvKernels();
  LoadSampleKernels();
  LoadSiluMulKernels();
  LoadStepDeltasKernels();
  LoadSumPartsKernels();
}

}  // namespace bora

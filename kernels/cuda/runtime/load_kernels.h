// Loads the code of every kernel onto the calling thread's GPU. Otherwise CUDA loads it at a
// kernel's first launch, which may wait for all work on the GPU. With several GPUs that work
// includes NCCL's kernels, which wait for peers.
#pragma once

namespace bora {

// One function for each file of kernels.
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

// To be called at load, before the GPU's first step, by a thread whose current GPU it is.
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

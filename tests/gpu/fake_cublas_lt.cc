// A library with cuBLASLt's interface that multiplies on the CPU, as the interface defines it: what
// kernels/cuda/runtime/cublas_lt.cc asks for is thus tested without a GPU. An algorithm's first
// word is the number of rows that it was asked for (the columns of cuBLASLt's second matrix).
#include <cublasLt.h>

#include <cstring>

#include "base/bf16.h"

namespace {

struct Layout {
  cudaDataType type;
  uint64_t n_rows;
  uint64_t n_cols;
  int64_t ld;  // elements from a column to the next
};

struct Operation {
  cublasComputeType_t compute;
  cudaDataType scale;
  int32_t transpose_a = CUBLAS_OP_N;
};

struct Preference {
  uint64_t workspace_bytes = 0;
  uint32_t min_alignment_x = 256;
  uint32_t min_alignment_y = 256;
};

int64_t n_heuristics = 0;
int64_t last_algorithm_rows = 0;

Layout* Of(cublasLtMatrixLayout_t layout) { return reinterpret_cast<Layout*>(layout); }
Operation* Of(cublasLtMatmulDesc_t operation) { return reinterpret_cast<Operation*>(operation); }
Preference* Of(cublasLtMatmulPreference_t preference) {
  return reinterpret_cast<Preference*>(preference);
}

// Element (row, col) of a column-major matrix of bf16.
double Element(const void* data, const Layout& layout, uint64_t row, uint64_t col) {
  return ToFloat(static_cast<const bora::Bf16*>(data)[col * layout.ld + row]);
}

// Whether op(A) [n, k] times B [k, m] gives D [n, m] in the types of our products.
bool Fits(const Operation& operation, const Layout& a, const Layout& b, const Layout& c,
          const Layout& d) {
  return operation.compute == CUBLAS_COMPUTE_32F && operation.scale == CUDA_R_32F &&
         operation.transpose_a == CUBLAS_OP_T && a.type == CUDA_R_16BF && b.type == CUDA_R_16BF &&
         c.type == CUDA_R_32F && d.type == CUDA_R_32F && a.n_rows == b.n_rows &&
         a.n_cols == d.n_rows && b.n_cols == d.n_cols && c.n_rows == d.n_rows &&
         c.n_cols == d.n_cols;
}

}  // namespace

extern "C" {

int64_t FakeHeuristics() { return n_heuristics; }
int64_t FakeLastAlgorithmRows() { return last_algorithm_rows; }

size_t cublasLtGetVersion() { return FAKE_CUBLAS_LT_VERSION; }
const char* cublasLtGetStatusName(cublasStatus_t) { return "STATUS"; }

cublasStatus_t cublasLtCreate(cublasLtHandle_t* handle) {
  *handle = reinterpret_cast<cublasLtHandle_t>(new int(0));
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtDestroy(cublasLtHandle_t handle) {
  delete reinterpret_cast<int*>(handle);
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t* layout, cudaDataType type,
                                          uint64_t n_rows, uint64_t n_cols, int64_t ld) {
  *layout = reinterpret_cast<cublasLtMatrixLayout_t>(new Layout{type, n_rows, n_cols, ld});
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t layout) {
  delete Of(layout);
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatrixLayoutSetAttribute(cublasLtMatrixLayout_t layout,
                                                cublasLtMatrixLayoutAttribute_t attribute,
                                                const void* value, size_t n_bytes) {
  if (attribute != CUBLASLT_MATRIX_LAYOUT_COLS || n_bytes != 8) return CUBLAS_STATUS_INVALID_VALUE;
  std::memcpy(&Of(layout)->n_cols, value, n_bytes);
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t* operation,
                                        cublasComputeType_t compute, cudaDataType_t scale) {
  *operation = reinterpret_cast<cublasLtMatmulDesc_t>(new Operation{compute, scale});
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t operation) {
  delete Of(operation);
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t operation,
                                              cublasLtMatmulDescAttributes_t attribute,
                                              const void* value, size_t n_bytes) {
  if (attribute != CUBLASLT_MATMUL_DESC_TRANSA || n_bytes != 4) return CUBLAS_STATUS_INVALID_VALUE;
  std::memcpy(&Of(operation)->transpose_a, value, n_bytes);
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t* preference) {
  *preference = reinterpret_cast<cublasLtMatmulPreference_t>(new Preference);
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t preference) {
  delete Of(preference);
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t preference,
                                                    cublasLtMatmulPreferenceAttributes_t attribute,
                                                    const void* value, size_t n_bytes) {
  Preference* const p = Of(preference);
  if (attribute == CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES && n_bytes == 8) {
    std::memcpy(&p->workspace_bytes, value, 8);
  } else if (attribute == CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES && n_bytes == 4) {
    std::memcpy(&p->min_alignment_x, value, 4);
  } else if (attribute == CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES && n_bytes == 4) {
    std::memcpy(&p->min_alignment_y, value, 4);
  } else if (n_bytes != 4) {
    return CUBLAS_STATUS_INVALID_VALUE;
  }
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t, cublasLtMatmulDesc_t operation,
                                              cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                              cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                              cublasLtMatmulPreference_t preference,
                                              int n_requested,
                                              cublasLtMatmulHeuristicResult_t results[],
                                              int* n_found) {
  const Preference& p = *Of(preference);
  if (n_requested < 1 || p.workspace_bytes == 0 || p.min_alignment_x != 16 ||
      p.min_alignment_y != 16 || !Fits(*Of(operation), *Of(a), *Of(b), *Of(c), *Of(d))) {
    return CUBLAS_STATUS_INVALID_VALUE;
  }
  ++n_heuristics;
  *n_found = 1;
  results[0] = {};
  results[0].algo.data[0] = Of(d)->n_cols;
  results[0].state = CUBLAS_STATUS_SUCCESS;
  return CUBLAS_STATUS_SUCCESS;
}

// An algorithm takes as many rows as it was asked for, or fewer; but the one for 4 takes no 3.
cublasStatus_t cublasLtMatmulAlgoCheck(cublasLtHandle_t, cublasLtMatmulDesc_t operation,
                                       cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                       cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                       const cublasLtMatmulAlgo_t* algorithm,
                                       cublasLtMatmulHeuristicResult_t* result) {
  if (!Fits(*Of(operation), *Of(a), *Of(b), *Of(c), *Of(d))) return CUBLAS_STATUS_INVALID_VALUE;
  const uint64_t m = Of(d)->n_cols;
  if (m > algorithm->data[0] || (m == 3 && algorithm->data[0] == 4)) {
    return CUBLAS_STATUS_NOT_SUPPORTED;
  }
  result->workspaceSize = 4096;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t, cublasLtMatmulDesc_t operation, const void* alpha,
                              const void* a, cublasLtMatrixLayout_t a_layout, const void* b,
                              cublasLtMatrixLayout_t b_layout, const void* beta, const void*,
                              cublasLtMatrixLayout_t c_layout, void* d,
                              cublasLtMatrixLayout_t d_layout,
                              const cublasLtMatmulAlgo_t* algorithm, void* workspace,
                              size_t workspace_bytes, cudaStream_t) {
  const Layout& la = *Of(a_layout);
  const Layout& lb = *Of(b_layout);
  const Layout& ld = *Of(d_layout);
  if (!Fits(*Of(operation), la, lb, *Of(c_layout), ld) || workspace == nullptr ||
      workspace_bytes < 4096 || *static_cast<const float*>(alpha) != 1 ||
      *static_cast<const float*>(beta) != 0) {
    return CUBLAS_STATUS_INVALID_VALUE;
  }
  last_algorithm_rows = static_cast<int64_t>(algorithm->data[0]);
  for (uint64_t col = 0; col < ld.n_cols; ++col) {
    for (uint64_t row = 0; row < ld.n_rows; ++row) {
      double sum = 0;
      for (uint64_t k = 0; k < lb.n_rows; ++k) {
        sum += Element(a, la, k, row) * Element(b, lb, k, col);
      }
      static_cast<float*>(d)[col * ld.ld + row] = static_cast<float>(sum);
    }
  }
  return CUBLAS_STATUS_SUCCESS;
}

}  // extern "C"

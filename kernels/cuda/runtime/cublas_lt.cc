#include "kernels/cuda/runtime/cublas_lt.h"

#include <cublasLt.h>
#include <dlfcn.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/status_macros.h"
#include "kernels/cuda/runtime/cuda_runtime.h"

namespace bora {
namespace {

// Working memory of the library: what NVIDIA advises for Hopper. More than this does not change the
// algorithms that the heuristics propose.
constexpr int64_t kWorkspaceBytes = int64_t{32} << 20;
// Alignments in bytes: of activations and products by the contract of CudaDevice, of weights by
// that of PackedWeight.
constexpr uint32_t kActivationAlignment = 16;
constexpr uint32_t kWeightAlignment = 256;

// The library's functions in use, found by name after it is opened.
struct Api {
  decltype(&cublasLtCreate) create = nullptr;
  decltype(&cublasLtDestroy) destroy = nullptr;
  decltype(&cublasLtGetStatusName) status_name = nullptr;
  decltype(&cublasLtGetVersion) get_version = nullptr;
  decltype(&cublasLtMatmul) matmul = nullptr;
  decltype(&cublasLtMatmulAlgoCheck) algo_check = nullptr;
  decltype(&cublasLtMatmulAlgoGetHeuristic) get_heuristic = nullptr;
  decltype(&cublasLtMatmulDescCreate) desc_create = nullptr;
  decltype(&cublasLtMatmulDescDestroy) desc_destroy = nullptr;
  decltype(&cublasLtMatmulDescSetAttribute) desc_set = nullptr;
  decltype(&cublasLtMatmulPreferenceCreate) preference_create = nullptr;
  decltype(&cublasLtMatmulPreferenceDestroy) preference_destroy = nullptr;
  decltype(&cublasLtMatmulPreferenceSetAttribute) preference_set = nullptr;
  decltype(&cublasLtMatrixLayoutCreate) layout_create = nullptr;
  decltype(&cublasLtMatrixLayoutDestroy) layout_destroy = nullptr;
  decltype(&cublasLtMatrixLayoutSetAttribute) layout_set = nullptr;

  // Ends the process if a call of the library failed. what: the call, for the message.
  void Check(cublasStatus_t status, const char* what) const {
    CHECK(status == CUBLAS_STATUS_SUCCESS) << what << ": " << status_name(status);
  }
};

// Opens the library. In the error, the loader's message names the library and the reason.
absl::StatusOr<void*> Open(const std::string& file) {
  std::vector<std::string> files = {file};
  if (file.empty()) {
    files = {absl::StrCat("libcublasLt.so.", CUBLAS_VER_MAJOR), "libcublasLt.so"};
  }
  std::string errors;
  for (const std::string& name : files) {
    if (void* library = dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL); library != nullptr) {
      return library;
    }
    absl::StrAppend(&errors, errors.empty() ? "" : "; ", dlerror());
  }
  return absl::UnavailableError(absl::StrCat("cuBLASLt: ", errors));
}

// Finds one function by its name; UNAVAILABLE if the library lacks it.
template <typename Function>
absl::Status Find(void* library, const char* name, Function* function) {
  *function = reinterpret_cast<Function>(dlsym(library, name));
  if (*function != nullptr) return absl::OkStatus();
  return absl::UnavailableError(absl::StrCat("cuBLASLt: ", dlerror()));
}

absl::StatusOr<Api> Load(const std::string& file) {
  // The library is never closed, because it keeps state of the driver that outlives its handles.
  ASSIGN_OR_RETURN(void* const library, Open(file));
  Api api;
  RETURN_IF_ERROR(Find(library, "cublasLtCreate", &api.create));
  RETURN_IF_ERROR(Find(library, "cublasLtDestroy", &api.destroy));
  RETURN_IF_ERROR(Find(library, "cublasLtGetStatusName", &api.status_name));
  RETURN_IF_ERROR(Find(library, "cublasLtGetVersion", &api.get_version));
  RETURN_IF_ERROR(Find(library, "cublasLtMatmul", &api.matmul));
  RETURN_IF_ERROR(Find(library, "cublasLtMatmulAlgoCheck", &api.algo_check));
  RETURN_IF_ERROR(Find(library, "cublasLtMatmulAlgoGetHeuristic", &api.get_heuristic));
  RETURN_IF_ERROR(Find(library, "cublasLtMatmulDescCreate", &api.desc_create));
  RETURN_IF_ERROR(Find(library, "cublasLtMatmulDescDestroy", &api.desc_destroy));
  RETURN_IF_ERROR(Find(library, "cublasLtMatmulDescSetAttribute", &api.desc_set));
  RETURN_IF_ERROR(Find(library, "cublasLtMatmulPreferenceCreate", &api.preference_create));
  RETURN_IF_ERROR(Find(library, "cublasLtMatmulPreferenceDestroy", &api.preference_destroy));
  RETURN_IF_ERROR(Find(library, "cublasLtMatmulPreferenceSetAttribute", &api.preference_set));
  RETURN_IF_ERROR(Find(library, "cublasLtMatrixLayoutCreate", &api.layout_create));
  RETURN_IF_ERROR(Find(library, "cublasLtMatrixLayoutDestroy", &api.layout_destroy));
  RETURN_IF_ERROR(Find(library, "cublasLtMatrixLayoutSetAttribute", &api.layout_set));
  return api;
}

// "13.1.0". The library's version numbers are major * 10000 + minor * 100 + patch.
std::string VersionName(size_t version) {
  return absl::StrCat(version / 10000, ".", version / 100 % 100, ".", version % 100);
}

// The algorithm for products of up to max_rows rows of x.
struct Bucket {
  int64_t max_rows = 0;
  cublasLtMatmulAlgo_t algorithm = {};
};

// The state for products with matrices of one shape. The library's matrices are column-major. In
// its terms x is [n_cols, m], w is [n_cols, n_rows] and is to be transposed, and the product y is
// [n_rows, m].
struct Shape {
  int64_t n_rows = 0;
  int64_t n_cols = 0;
  cublasLtMatrixLayout_t w = nullptr;
  cublasLtMatrixLayout_t x = nullptr;
  cublasLtMatrixLayout_t y = nullptr;
  std::vector<Bucket> buckets;  // ascending powers of two

  int64_t max_rows() const { return buckets.empty() ? 0 : buckets.back().max_rows; }
};

}  // namespace

struct CublasLt::State {
  Api api;
  cublasLtHandle_t handle = nullptr;
  cublasLtMatmulDesc_t operation = nullptr;
  cublasLtMatmulPreference_t preference = nullptr;
  CudaBuffer workspace;
  std::vector<Shape> shapes;

  ~State();
  // Creates `operation` and `preference`, the same for all shapes.
  void DescribeOperation();
  // The shape's state, or null if it was never prepared.
  Shape* FindShape(const PackedWeight& w);
  Shape NewShape(const PackedWeight& w) const;
  // Sets the number of rows of x that the shape's layouts describe.
  void SetRows(const Shape& shape, int64_t m) const;
  // The first algorithm that the heuristics propose for m rows of x.
  cublasLtMatmulAlgo_t Choose(const Shape& shape, int64_t m) const;
  // The algorithm for a product of m rows. REQUIRES: SetRows(shape, m) was called last.
  const cublasLtMatmulAlgo_t& AlgorithmFor(const Shape& shape, int64_t m) const;
};

CublasLt::State::~State() {
  for (const Shape& shape : shapes) {
    for (cublasLtMatrixLayout_t layout : {shape.w, shape.x, shape.y}) api.layout_destroy(layout);
  }
  if (preference != nullptr) api.preference_destroy(preference);
  if (operation != nullptr) api.desc_destroy(operation);
  if (handle != nullptr) api.destroy(handle);
}

void CublasLt::State::DescribeOperation() {
  api.Check(api.desc_create(&operation, CUBLAS_COMPUTE_32F, CUDA_R_32F), "cublasLtMatmulDesc");
  const int32_t transpose = CUBLAS_OP_T;
  api.Check(api.desc_set(operation, CUBLASLT_MATMUL_DESC_TRANSA, &transpose, sizeof(transpose)),
            "cublasLtMatmulDesc");

  api.Check(api.preference_create(&preference), "cublasLtMatmulPreference");
  const auto prefer = [this](cublasLtMatmulPreferenceAttributes_t attribute, auto value) {
    api.Check(api.preference_set(preference, attribute, &value, sizeof(value)),
              "cublasLtMatmulPreference");
  };
  prefer(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, static_cast<uint64_t>(kWorkspaceBytes));
  prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, kWeightAlignment);
  prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, kActivationAlignment);
  prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, kActivationAlignment);
  prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, kActivationAlignment);
}

Shape* CublasLt::State::FindShape(const PackedWeight& w) {
  for (Shape& shape : shapes) {
    if (shape.n_rows == w.n_rows && shape.n_cols == w.n_cols) return &shape;
  }
  return nullptr;
}

Shape CublasLt::State::NewShape(const PackedWeight& w) const {
  Shape shape = {.n_rows = w.n_rows, .n_cols = w.n_cols};
  const auto layout = [this](cublasLtMatrixLayout_t* out, cudaDataType type, int64_t n_rows,
                             int64_t n_cols) {
    api.Check(api.layout_create(out, type, static_cast<uint64_t>(n_rows),
                                static_cast<uint64_t>(n_cols), n_rows),
              "cublasLtMatrixLayout");
  };
  layout(&shape.w, CUDA_R_16BF, w.n_cols, w.n_rows);
  layout(&shape.x, CUDA_R_16BF, w.n_cols, 1);
  layout(&shape.y, CUDA_R_32F, w.n_rows, 1);
  return shape;
}

void CublasLt::State::SetRows(const Shape& shape, int64_t m) const {
  const uint64_t n_cols = static_cast<uint64_t>(m);
  for (cublasLtMatrixLayout_t layout : {shape.x, shape.y}) {
    api.Check(api.layout_set(layout, CUBLASLT_MATRIX_LAYOUT_COLS, &n_cols, sizeof(n_cols)),
              "cublasLtMatrixLayout");
  }
}

cublasLtMatmulAlgo_t CublasLt::State::Choose(const Shape& shape, int64_t m) const {
  SetRows(shape, m);
  cublasLtMatmulHeuristicResult_t best = {};
  int n_found = 0;
  const cublasStatus_t status =
      api.get_heuristic(handle, operation, shape.w, shape.x, shape.y, shape.y, preference,
                        /*requestedAlgoCount=*/1, &best, &n_found);
  CHECK(status == CUBLAS_STATUS_SUCCESS && n_found > 0 && best.state == CUBLAS_STATUS_SUCCESS)
      << "cuBLASLt has no algorithm for [" << m << ", " << shape.n_cols << "] x [" << shape.n_rows
      << ", " << shape.n_cols << "]^T: " << api.status_name(status);
  return best.algo;
}

// Prefers the algorithm of the bucket that m falls into. It was chosen for the most rows of its
// bucket and normally takes fewer as well; if it refuses, those of the next buckets are tried.
const cublasLtMatmulAlgo_t& CublasLt::State::AlgorithmFor(const Shape& shape, int64_t m) const {
  const auto own = std::find_if(shape.buckets.begin(), shape.buckets.end(),
                                [m](const Bucket& bucket) { return m <= bucket.max_rows; });
  const size_t n_buckets = shape.buckets.size();
  for (size_t i = 0; i < n_buckets; ++i) {
    const cublasLtMatmulAlgo_t& algorithm =
        shape.buckets[(own - shape.buckets.begin() + i) % n_buckets].algorithm;
    cublasLtMatmulHeuristicResult_t result = {};
    if (api.algo_check(handle, operation, shape.w, shape.x, shape.y, shape.y, &algorithm,
                       &result) == CUBLAS_STATUS_SUCCESS &&
        result.workspaceSize <= static_cast<size_t>(kWorkspaceBytes)) {
      return algorithm;
    }
  }
  CHECK(false) << "no algorithm of cuBLASLt takes " << m << " rows of " << shape.n_cols;
  return shape.buckets.back().algorithm;
}

CublasLt::CublasLt(std::unique_ptr<State> state) : state_(std::move(state)) {}
CublasLt::~CublasLt() = default;

absl::StatusOr<std::unique_ptr<CublasLt>> CublasLt::Create(const std::string& file) {
  auto state = std::make_unique<State>();
  ASSIGN_OR_RETURN(state->api, Load(file));
  if (const size_t version = state->api.get_version(); version / 10000 != CUBLAS_VER_MAJOR) {
    return absl::UnavailableError(absl::StrCat("cuBLASLt: the library is version ",
                                               VersionName(version), ", this build needs ",
                                               CUBLAS_VER_MAJOR));
  }
  if (const cublasStatus_t status = state->api.create(&state->handle);
      status != CUBLAS_STATUS_SUCCESS) {
    state->handle = nullptr;
    return absl::UnavailableError(absl::StrCat("cuBLASLt: libcublasLt.so.", CUBLAS_VER_MAJOR,
                                               " finds no GPU that it can use (",
                                               state->api.status_name(status), ")"));
  }
  ASSIGN_OR_RETURN(state->workspace, CudaBuffer::Allocate(kWorkspaceBytes, "cuBLASLt's workspace"));
  state->DescribeOperation();
  return std::unique_ptr<CublasLt>(new CublasLt(std::move(state)));
}

std::string CublasLt::version() const { return VersionName(state_->api.get_version()); }

void CublasLt::Prepare(const PackedWeight& w, int64_t max_rows) {
  CHECK(w.format == WeightFormat::kBf16 && w.layout != WeightLayout::kPanels);
  CHECK_GT(max_rows, 0);
  Shape* shape = state_->FindShape(w);
  if (shape == nullptr) {
    state_->shapes.push_back(state_->NewShape(w));
    shape = &state_->shapes.back();
  }
  if (shape->max_rows() >= max_rows) return;
  shape->buckets.clear();
  for (int64_t rows = 1; shape->max_rows() < max_rows; rows *= 2) {
    shape->buckets.push_back({rows, state_->Choose(*shape, rows)});
  }
}

void CublasLt::MatMul(CudaDevice& device, const Bf16* x, int64_t m, const PackedWeight& w,
                      float* y) {
  if (m == 0) return;
  const Shape* shape = state_->FindShape(w);
  CHECK(shape != nullptr && m <= shape->max_rows())
      << m << " rows of " << w.n_cols << " were not prepared for " << w.n_rows << " outputs";
  state_->SetRows(*shape, m);
  const float one = 1;
  const float zero = 0;
  state_->api.Check(
      state_->api.matmul(state_->handle, state_->operation, &one, w.data, shape->w, x, shape->x,
                         &zero, y, shape->y, y, shape->y, &state_->AlgorithmFor(*shape, m),
                         state_->workspace.data(), static_cast<size_t>(state_->workspace.bytes()),
                         device.stream()),
      "cublasLtMatmul");
}

absl::StatusOr<std::unique_ptr<MatrixLibrary>> OpenMatrixLibrary() { return CublasLt::Create(); }

}  // namespace bora

// The source of a rank's weights: a checkpoint on disk (CheckpointWeights) or generated numbers
// (DummyWeights). Tensors are read in rectangles, so that a rank reads only its own share.
#pragma once

#include <cstdint>
#include <variant>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "base/bf16.h"
#include "base/number_formats.h"
#include "model/checkpoint/checkpoint.h"
#include "model/checkpoint/fingerprint.h"
#include "model/checkpoint/tensor_id.h"
#include "model/checkpoint/weight_digest.h"
#include "model/config.h"

namespace bora {

// The rectangle of rows [row_begin, row_end) and columns [col_begin, col_end) of a tensor. A plain
// value.
struct TensorSlice {
  int64_t row_begin = 0;
  int64_t row_end = 0;
  int64_t col_begin = 0;
  int64_t col_end = 0;

  int64_t n_rows() const { return row_end - row_begin; }
  int64_t n_cols() const { return col_end - col_begin; }
  int64_t n_elements() const { return n_rows() * n_cols(); }
};

// Returns the slice with all rows and columns of a tensor of this shape.
inline TensorSlice WholeTensor(const TensorShape& shape) {
  return {0, shape.n_rows, 0, shape.n_cols};
}

// The memory that a slice is written to, with the element type in which it is read. It owns
// nothing.
using ElementSpan = std::variant<absl::Span<float>, absl::Span<Bf16>, absl::Span<Half>>;

// Returns a span of n_elements elements of type `dtype` at `data`. REQUIRES: `data` is aligned to
// the size of an element.
ElementSpan ElementsAt(DType dtype, void* data, int64_t n_elements);

// CHECK-fails unless `slice` lies in the tensor `id` of shape `shape` and has dst_size elements.
void CheckSlice(TensorId id, const TensorShape& shape, const TensorSlice& slice, size_t dst_size);

// The tensors of one model. Implementations are immutable after construction: any number of threads
// may read at once.
class WeightSource {
 public:
  virtual ~WeightSource() = default;

  // The config of the model, which gives the shapes of all tensors.
  virtual const ModelConfig& config() const = 0;

  // Equal for two sources only if they hold the same weights, as far as the implementation can
  // tell.
  virtual Fingerprint fingerprint() const = 0;

  // Reads the slice of tensor `id` into `dst` [slice.n_rows(), slice.n_cols()], row-major.
  // REQUIRES: the slice lies in the tensor and `dst` has exactly its size (CHECK). A norm vector is
  // a tensor of one row. The rows of wq and wk come in half-rotation order, whatever the
  // checkpoint's layout. Conversion to float is exact; conversion to bf16 and float16 rounds to
  // nearest even. DATA_LOSS names tensor and element if a value is not finite, or is not finite
  // after the conversion.
  //
  // Unless `digest` is null, the bytes that were read are added to *digest as they are stored; the
  // slice's columns must then end where units do (DigestUnitCols). Weights that are stored nowhere
  // add nothing.
  absl::Status ReadSlice(TensorId id, const TensorSlice& slice, ElementSpan dst,
                         DigestSum* digest = nullptr) const {
    return Read(id, slice, dst, digest);
  }

  // Two hints for a caller that reads many slices; neither changes the elements that are read.
  // Slices are read fastest in ascending order of StoragePosition. A slice that was announced with
  // WillRead some time before its ReadSlice is fetched from disk while the caller does other work.
  virtual int64_t StoragePosition(TensorId, const TensorSlice&) const { return 0; }
  virtual void WillRead(TensorId, const TensorSlice&) const {}
  // Tells the source that the slice will not be read again soon on this host, so that the source
  // can let go of memory that holds it.
  virtual void HaveRead(TensorId, const TensorSlice&) const {}

 private:
  // Does the work of ReadSlice, with the same contract.
  virtual absl::Status Read(TensorId id, const TensorSlice& slice, ElementSpan dst,
                            DigestSum* digest) const = 0;
};

// The weights of an open checkpoint. The files' pages never count as memory of this process: bytes
// are read into the destination or, if elements are converted, through a buffer of 1 MiB per call.
class CheckpointWeights final : public WeightSource {
 public:
  explicit CheckpointWeights(Checkpoint checkpoint);

  const ModelConfig& config() const override { return checkpoint_.config(); }
  Fingerprint fingerprint() const override { return checkpoint_.fingerprint(); }
  int64_t StoragePosition(TensorId id, const TensorSlice& slice) const override;
  void WillRead(TensorId id, const TensorSlice& slice) const override;
  void HaveRead(TensorId id, const TensorSlice& slice) const override;

 private:
  absl::Status Read(TensorId id, const TensorSlice& slice, ElementSpan dst,
                    DigestSum* digest) const override;
  template <typename T>
  absl::Status ReadAs(TensorId id, const TensorSlice& slice, absl::Span<T> dst,
                      DigestSum* digest) const;

  Checkpoint checkpoint_;
};

}  // namespace bora

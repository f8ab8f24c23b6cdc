// The source of a rank's weights: a checkpoint on disk or generated numbers. Weights are read in
// rectangles, so that a rank touches only its own share.
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

// The slice with all rows and columns of a tensor of this shape.
inline TensorSlice WholeTensor(const TensorShape& shape) {
  return {0, shape.n_rows, 0, shape.n_cols};
}

// Where a slice is written to: elements of one of the types that weights are read as.
using ElementSpan = std::variant<absl::Span<float>, absl::Span<Bf16>, absl::Span<Half>>;

// n_elements elements of type `dtype` at `data`, whose address is a multiple of their size.
ElementSpan ElementsAt(DType dtype, void* data, int64_t n_elements);

// CHECK-fails unless the slice lies in the tensor and has dst_size elements.
void CheckSlice(TensorId id, const TensorShape& shape, const TensorSlice& slice, size_t dst_size);

// Implementations are immutable after construction: any number of threads may read at once.
class WeightSource {
 public:
  virtual ~WeightSource() = default;

  virtual const ModelConfig& config() const = 0;

  // Equal for two sources only if they hold the same weights, as far as the implementation can
  // tell.
  virtual Fingerprint fingerprint() const = 0;

  // Writes the slice of tensor `id`, row-major, to `dst` [slice.n_rows(), slice.n_cols()], whose
  // size must be exactly that (CHECK, as is a slice outside the tensor). Norm vectors are one row.
  // wq and wk come in half-rotation order from every layout. Conversion to float is exact;
  // conversion to bf16 and float16 rounds to nearest even. DATA_LOSS names tensor and element of a
  // value that is not finite (also one that overflows the type).
  // Unless `digest` is null, the bytes that were read are added to *digest as they are stored; the
  // slice's columns must then end where units do (DigestUnitCols). Weights that are stored nowhere
  // add nothing.
  absl::Status ReadSlice(TensorId id, const TensorSlice& slice, ElementSpan dst,
                         DigestSum* digest = nullptr) const {
    return Read(id, slice, dst, digest);
  }

  // Many slices are read fastest in ascending order of their StoragePosition, and announced with
  // WillRead some time before: the source then fetches them while others are worked on. Neither
  // changes the elements that are read.
  virtual int64_t StoragePosition(TensorId, const TensorSlice&) const { return 0; }
  virtual void WillRead(TensorId, const TensorSlice&) const {}
  // Tells the source that the slice will not be read again soon on this host: memory that the
  // source holds for it can go.
  virtual void HaveRead(TensorId, const TensorSlice&) const {}

 private:
  // ReadSlice, of this source.
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

// The source of a rank's weights: a checkpoint on disk or generated numbers. Weights are read in
// rectangles, so that a rank touches only its own share.
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "base/bf16.h"
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

// Aborts (CHECK) unless the slice lies in the tensor and has exactly dst_size elements.
void CheckSlice(TensorId id, const TensorShape& shape, const TensorSlice& slice, size_t dst_size);

// Implementations are immutable after construction: any number of threads may read at once.
class WeightSource {
 public:
  virtual ~WeightSource() = default;

  virtual const ModelConfig& config() const = 0;

  // Equal for two sources only if they hold the same weights, as far as the implementation can
  // tell.
  virtual Fingerprint fingerprint() const = 0;

  // Writes the slice of tensor `id` to `dst` [slice.n_rows(), slice.n_cols()], row-major. Norm
  // vectors are one row. wq and wk are in half-rotation order whatever the layout of the files
  // (model/checkpoint/rotary_layout.h). Conversion to float is exact; conversion to bf16 and to
  // half rounds to nearest, ties to even. DATA_LOSS, with tensor and element, if a value is not
  // finite after conversion, overflow included; also if the file cannot be read. REQUIRES: the
  // slice lies in the tensor and dst.size() equals its elements (CHECK).
  virtual absl::Status ReadSlice(TensorId id, const TensorSlice& slice,
                                 absl::Span<float> dst) const = 0;
  virtual absl::Status ReadSlice(TensorId id, const TensorSlice& slice,
                                 absl::Span<Bf16> dst) const = 0;
  virtual absl::Status ReadSlice(TensorId id, const TensorSlice& slice,
                                 absl::Span<Half> dst) const = 0;

  // ReadSlice, which also adds the digest of the slice's stored bytes to *digest. REQUIRES: the
  // slice's columns begin and end between units (DigestUnitCols). Generated weights have no stored
  // bytes and add nothing, which is this default.
  virtual absl::Status ReadAndDigest(TensorId id, const TensorSlice& slice, absl::Span<float> dst,
                                     DigestSum*) const {
    return ReadSlice(id, slice, dst);
  }
  virtual absl::Status ReadAndDigest(TensorId id, const TensorSlice& slice, absl::Span<Bf16> dst,
                                     DigestSum*) const {
    return ReadSlice(id, slice, dst);
  }
  virtual absl::Status ReadAndDigest(TensorId id, const TensorSlice& slice, absl::Span<Half> dst,
                                     DigestSum*) const {
    return ReadSlice(id, slice, dst);
  }

  // Advice for reading many slices fast: read them in ascending StoragePosition(), and call
  // WillRead() for a slice some time before it is read, so that the source fetches it while others
  // are converted. Neither changes a result.
  virtual int64_t StoragePosition(TensorId, const TensorSlice&) const { return 0; }
  virtual void WillRead(TensorId, const TensorSlice&) const {}
  // Advice: no rank on this host reads the slice again soon, so the source may drop its cache of
  // it.
  virtual void HaveRead(TensorId, const TensorSlice&) const {}
};

// The weights of an open checkpoint. The files' pages never count as memory of this process: bytes
// are read into the destination or, if elements are converted, through a buffer of 1 MiB per call.
class CheckpointWeights final : public WeightSource {
 public:
  explicit CheckpointWeights(Checkpoint checkpoint);

  const ModelConfig& config() const override { return checkpoint_.config(); }
  Fingerprint fingerprint() const override { return checkpoint_.fingerprint(); }
  absl::Status ReadSlice(TensorId id, const TensorSlice& slice,
                         absl::Span<float> dst) const override;
  absl::Status ReadSlice(TensorId id, const TensorSlice& slice,
                         absl::Span<Bf16> dst) const override;
  absl::Status ReadSlice(TensorId id, const TensorSlice& slice,
                         absl::Span<Half> dst) const override;
  absl::Status ReadAndDigest(TensorId id, const TensorSlice& slice, absl::Span<float> dst,
                             DigestSum* digest) const override;
  absl::Status ReadAndDigest(TensorId id, const TensorSlice& slice, absl::Span<Bf16> dst,
                             DigestSum* digest) const override;
  absl::Status ReadAndDigest(TensorId id, const TensorSlice& slice, absl::Span<Half> dst,
                             DigestSum* digest) const override;
  int64_t StoragePosition(TensorId id, const TensorSlice& slice) const override;
  void WillRead(TensorId id, const TensorSlice& slice) const override;
  void HaveRead(TensorId id, const TensorSlice& slice) const override;

 private:
  template <typename T>
  absl::Status Read(TensorId id, const TensorSlice& slice, absl::Span<T> dst,
                    DigestSum* digest) const;

  Checkpoint checkpoint_;
};

}  // namespace bora

// Where a rank's weights come from: a checkpoint on disk or made-up numbers, read by rectangles so
// that a rank touches only its own share.
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

// Rows [row_begin, row_end) and columns [col_begin, col_end) of a tensor.
struct TensorSlice {
  int64_t row_begin = 0;
  int64_t row_end = 0;
  int64_t col_begin = 0;
  int64_t col_end = 0;

  int64_t n_rows() const { return row_end - row_begin; }
  int64_t n_cols() const { return col_end - col_begin; }
  int64_t n_elements() const { return n_rows() * n_cols(); }
};

// All rows and columns of a tensor of this shape.
inline TensorSlice WholeTensor(const TensorShape& shape) {
  return {0, shape.n_rows, 0, shape.n_cols};
}

// CHECK-fails unless the slice lies in the tensor and has dst_size elements.
void CheckSlice(TensorId id, const TensorShape& shape, const TensorSlice& slice, size_t dst_size);

// Implementations are immutable after construction: any number of threads may read at once.
class WeightSource {
 public:
  virtual ~WeightSource() = default;

  virtual const ModelConfig& config() const = 0;

  // Equal for two sources only if they hold the same weights (see each implementation).
  virtual Fingerprint fingerprint() const = 0;

  // Writes the slice of tensor `id`, row-major, to `dst` [slice.n_rows(), slice.n_cols()], whose
  // size must be exactly that (CHECK, as is a slice outside the tensor). Norm vectors are one row.
  // wq and wk come in half-rotation order from every layout. Conversion to float is exact;
  // conversion to bf16 and float16 rounds to nearest even. DATA_LOSS names tensor and element of a
  // value that is not finite (also one that overflows the type).
  virtual absl::Status ReadSlice(TensorId id, const TensorSlice& slice,
                                 absl::Span<float> dst) const = 0;
  virtual absl::Status ReadSlice(TensorId id, const TensorSlice& slice,
                                 absl::Span<Bf16> dst) const = 0;
  virtual absl::Status ReadSlice(TensorId id, const TensorSlice& slice,
                                 absl::Span<Half> dst) const = 0;

  // ReadSlice that also adds what it has read, as it is stored, to *digest. The slice's columns end
  // where units do (DigestUnitCols). Weights that are stored nowhere add nothing.
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

  // Many slices are read fastest in ascending order of this, and announced with WillRead some time
  // before: the source then fetches them while others are worked on. Neither changes what is read.
  virtual int64_t StoragePosition(TensorId, const TensorSlice&) const { return 0; }
  virtual void WillRead(TensorId, const TensorSlice&) const {}
  // Nobody on this host will read the slice again soon: what the source keeps of it can go.
  virtual void HaveRead(TensorId, const TensorSlice&) const {}
};

// The weights of an opened checkpoint. Its files' pages never count as this process's memory: they
// are read into the destination or, where elements are converted, through 1 MiB of the thread's
// own.
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

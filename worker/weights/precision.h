// The types of a rank's numbers.
#pragma once

#include "base/number_formats.h"

namespace bora {

// A plain value.
struct Precision {
  // Matrices are not quantized.
  Precision(DType dtype)  // NOLINT: a dtype is a precision
      : Precision(dtype, InfoOf(dtype).weights) {}
  Precision(DType dtype, WeightFormat weights) : dtype(dtype), weights(weights) {}

  DType dtype;           // of the embedding table
  WeightFormat weights;  // of the matrices

  DType kv_dtype() const { return InfoOf(dtype).kv_dtype; }  // of the KV cache
};

}  // namespace bora

// The number formats of a rank's weights and KV cache.
#pragma once

#include "base/number_formats.h"

namespace bora {

// A plain value; a DType converts to it.
struct Precision {
  // Without quantization: the matrices have the format that `dtype` implies.
  Precision(DType dtype)  // NOLINT: a dtype is a precision
      : Precision(dtype, InfoOf(dtype).weights) {}
  // With matrices in format `weights`.
  Precision(DType dtype, WeightFormat weights) : dtype(dtype), weights(weights) {}

  DType dtype;           // of the embedding table
  WeightFormat weights;  // of the matrices; norm gains are always float

  DType kv_dtype() const { return InfoOf(dtype).kv_dtype; }  // of the KV cache
};

}  // namespace bora

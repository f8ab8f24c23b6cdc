// The formats that weights and KV caches are kept in: one table for flags, configurations, the
// worker protocol, loaders and kernels. A new format of matrices is a line in kWeightFormats, its
// packing (kernels/packed_weight.h) and its products.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace bora {

// Element type of weights that are not matrices of products, and of the KV cache, which is never
// kF16. Activations are float; where an operation's weights are bf16 it rounds its activations to
// bf16 first, as the reference's bf16 matrix products do, and accumulates in float. Where they are
// float16 it rounds nothing: a float16 is a float with fewer digits.
enum class DType { kF32, kBf16, kF16 };

// Format of a matrix of products. kInt8: symmetric 8-bit integers with one float scale for each row
// and group of columns. kF16: IEEE binary16.
enum class WeightFormat { kF32, kBf16, kInt8, kF16 };

struct DTypeInfo {
  DType dtype = DType::kF32;
  absl::string_view name;                     // in flags, in a model's config and between processes
  absl::string_view short_name;               // in the flags of tools
  int64_t bytes = 0;                          // of an element
  WeightFormat weights = WeightFormat::kF32;  // of matrices that are not quantized
  // Of the KV cache: the same type, except that float16 has a cache of floats, since neither its
  // range nor its precision may shrink.
  DType kv_dtype = DType::kF32;
};

// In the order of the enum.
inline constexpr DTypeInfo kDTypes[] = {
    {DType::kF32, "float32", "f32", 4, WeightFormat::kF32, DType::kF32},
    {DType::kBf16, "bfloat16", "bf16", 2, WeightFormat::kBf16, DType::kBf16},
    {DType::kF16, "float16", "f16", 2, WeightFormat::kF16, DType::kF32}};

struct WeightFormatInfo {
  WeightFormat format = WeightFormat::kF32;
  absl::string_view name;
  int bits = 0;                   // of a weight, scales aside
  DType rows = DType::kF32;       // element type of the rows that are packed into the format
  bool is_quantization = false;   // chosen by name; the others come with a DType
  absl::string_view description;  // of a quantization: what a matrix is kept in
};

// In the order of the enum.
inline constexpr WeightFormatInfo kWeightFormats[] = {
    {WeightFormat::kF32, "float32", 32, DType::kF32, false, ""},
    {WeightFormat::kBf16, "bfloat16", 16, DType::kBf16, false, ""},
    {WeightFormat::kInt8, "int8", 8, DType::kF32, true,
     "8 bits with a scale for each row and group of up to 128 columns"},
    {WeightFormat::kF16, "float16", 16, DType::kF16, false, ""}};

constexpr const DTypeInfo& InfoOf(DType dtype) { return kDTypes[static_cast<int>(dtype)]; }
constexpr const WeightFormatInfo& InfoOf(WeightFormat format) {
  return kWeightFormats[static_cast<int>(format)];
}

constexpr int64_t DTypeBytes(DType dtype) { return InfoOf(dtype).bytes; }

// The type called `name`, for example "bfloat16". INVALID_ARGUMENT lists the names that exist.
absl::StatusOr<DType> ParseDType(absl::string_view name);

// The format of matrices beside weights of type `dtype`: that of the dtype if `quantization` is
// empty, or else the quantization of that name, for example "int8". INVALID_ARGUMENT lists the
// names that exist.
absl::StatusOr<WeightFormat> ParseWeightFormat(DType dtype, absl::string_view quantization);

std::vector<std::string> DTypeNames();         // that ParseDType takes
std::vector<std::string> DTypeShortNames();    // of the same types
std::vector<std::string> QuantizationNames();  // that ParseWeightFormat takes

// "float32, bfloat16 and float16": the names as part of a sentence, `word` ("and", "or") before the
// last.
std::string ListOfNames(const std::vector<std::string>& names, absl::string_view word);

}  // namespace bora

// The formats that weights and KV caches are kept in: one table for flags, configurations, the
// worker protocol, loaders and kernels. To add a format of matrices, add a line to kWeightFormats,
// its packing (kernels/packed_weight.h) and its matrix products. Everything here is constant or a
// pure function; any thread.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace bora {

// Element type of the embedding table, and of the KV cache, which is never kF16. Activations are
// always float. An operation whose weights are bf16 first rounds its activations to bf16, as the
// reference's bf16 matrix products do, and accumulates in float. An operation whose weights are
// float16 does not round its activations: a float16 is a float with fewer digits.
enum class DType { kF32, kBf16, kF16 };

// Format of a matrix that activations are multiplied with. kF32: IEEE binary32. kBf16: the upper 16
// bits of a float. kInt8: symmetric 8-bit integers with one float scale for each row and group of
// columns. kF16: IEEE binary16.
enum class WeightFormat { kF32, kBf16, kInt8, kF16 };

// What is known of a DType. A plain value.
struct DTypeInfo {
  DType dtype = DType::kF32;
  absl::string_view name;                     // in flags, in a model's config and between processes
  absl::string_view short_name;               // in the flags of benchmarks and tools
  int64_t bytes = 0;                          // of one element
  WeightFormat weights = WeightFormat::kF32;  // of matrices without quantization
  // Element type of the KV cache beside such weights: `dtype` itself, except that float16 weights
  // have a float cache, since neither the range nor the precision of float16 may shrink.
  DType kv_dtype = DType::kF32;
};

// Indexed by DType: in the order of the enum.
inline constexpr DTypeInfo kDTypes[] = {
    {DType::kF32, "float32", "f32", 4, WeightFormat::kF32, DType::kF32},
    {DType::kBf16, "bfloat16", "bf16", 2, WeightFormat::kBf16, DType::kBf16},
    {DType::kF16, "float16", "f16", 2, WeightFormat::kF16, DType::kF32}};

// What is known of a WeightFormat. A plain value.
struct WeightFormatInfo {
  WeightFormat format = WeightFormat::kF32;
  absl::string_view name;         // of a quantization in flags and between processes
  int bits = 0;                   // of one weight, without its share of the scales
  DType rows = DType::kF32;       // element type of the rows that are packed into the format
  bool is_quantization = false;   // chosen by its name; other formats follow from a DType
  absl::string_view description;  // of a quantization, for --help; else empty
};

// Indexed by WeightFormat: in the order of the enum.
inline constexpr WeightFormatInfo kWeightFormats[] = {
    {WeightFormat::kF32, "float32", 32, DType::kF32, false, ""},
    {WeightFormat::kBf16, "bfloat16", 16, DType::kBf16, false, ""},
    {WeightFormat::kInt8, "int8", 8, DType::kF32, true,
     "8 bits with a scale for each row and group of up to 128 columns"},
    {WeightFormat::kF16, "float16", 16, DType::kF16, false, ""}};

// The table entry of `dtype` or `format`.
constexpr const DTypeInfo& InfoOf(DType dtype) { return kDTypes[static_cast<int>(dtype)]; }
constexpr const WeightFormatInfo& InfoOf(WeightFormat format) {
  return kWeightFormats[static_cast<int>(format)];
}

// Bytes of one element of type `dtype`.
constexpr int64_t DTypeBytes(DType dtype) { return InfoOf(dtype).bytes; }

// Returns the type called `name`, for example "bfloat16". INVALID_ARGUMENT, with the list of known
// names, if there is no such type. Short names are not accepted.
absl::StatusOr<DType> ParseDType(absl::string_view name);

// Returns the format of the matrices of a model whose other weights have type `dtype`: the format
// that `dtype` implies if `quantization` is empty, else the quantization of that name, for example
// "int8". INVALID_ARGUMENT, with the list of known names, if there is no such quantization.
absl::StatusOr<WeightFormat> ParseWeightFormat(DType dtype, absl::string_view quantization);

// The names that ParseDType takes, in the order of kDTypes.
std::vector<std::string> DTypeNames();
// The short names of the same types, in the same order.
std::vector<std::string> DTypeShortNames();
// The names that ParseWeightFormat takes, except the empty one.
std::vector<std::string> QuantizationNames();

// Joins `names` for use in a sentence, with `word` ("and", "or") before the last one: "float32,
// bfloat16 and float16". One name is returned as it is; no names give "".
std::string ListOfNames(const std::vector<std::string>& names, absl::string_view word);

}  // namespace bora

// Small models, directories and files for the tests of model/.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <cstring>
#include <fstream>
#include <map>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "model/checkpoint/safetensors.h"
#include "model/checkpoint/tensor_id.h"
#include "model/config.h"
#include "tests/model/temp_dir.h"

namespace bora {

inline void WriteFile(const std::string& path, const std::string& bytes) {
  std::ofstream out(path, std::ios::binary);
  out << bytes;
  ASSERT_TRUE(out.flush().good()) << path;
}

// 2 layers with grouped heads, and no two dimensions alike, so that a swapped one shows.
inline ModelConfig TinyConfig() {
  ModelConfig config;
  config.architecture = "mistral";
  config.dim = 24;
  config.hidden_dim = 40;
  config.n_layers = 2;
  config.n_heads = 4;
  config.n_kv_heads = 2;
  config.head_dim = 8;
  config.vocab_size = 50;
  config.max_position = 128;
  config.rope_theta = 1e6;
  config.norm_eps = 1e-5;
  return config;
}

inline std::string LittleEndian64(uint64_t value) {
  std::string bytes(8, '\0');
  for (int i = 0; i < 8; ++i) bytes[i] = static_cast<char>(value >> (8 * i));
  return bytes;
}

// The bytes of a safetensors file with this header and this much data.
inline std::string SafetensorsBytes(const std::string& header, size_t n_data_bytes) {
  return absl::StrCat(LittleEndian64(header.size()), header, std::string(n_data_bytes, '\0'));
}

// A tensor to write: raw bytes of any dtype and shape.
struct RawTensor {
  FileDType dtype = FileDType::kF32;
  std::vector<int64_t> shape;
  std::string bytes;
};

inline std::string SafetensorsBytes(const std::map<std::string, RawTensor>& tensors) {
  std::string header = "{";
  std::string data;
  for (const auto& [name, tensor] : tensors) {
    absl::StrAppend(&header, header.size() > 1 ? "," : "", "\"", name, "\":{\"dtype\":\"",
                    FileDTypeName(tensor.dtype), "\",\"shape\":", ShapeText(tensor.shape),
                    ",\"data_offsets\":[", data.size(), ",", data.size() + tensor.bytes.size(),
                    "]}");
    data += tensor.bytes;
  }
  header += "}";
  return absl::StrCat(LittleEndian64(header.size()), header, data);
}

// Every tensor of an existing safetensors file, to change some and write it again.
inline std::map<std::string, RawTensor> ReadAll(const std::string& path) {
  std::map<std::string, RawTensor> tensors;
  const auto file = SafetensorsFile::Open(path);
  EXPECT_TRUE(file.ok()) << file.status();
  if (!file.ok()) return tensors;
  for (const TensorInfo& info : file->tensors()) {
    const auto bytes = file->Bytes(info);
    tensors[info.name] = {info.dtype, info.shape, std::string(bytes.begin(), bytes.end())};
  }
  return tensors;
}

}  // namespace bora

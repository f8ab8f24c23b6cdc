#include "tests/conformance/golden.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "base/int_math.h"
#include "base/status_macros.h"
#include "model/checkpoint/safetensors.h"

namespace bora {
namespace {

// One token, less and more than a block, neither a multiple of a block nor of an attention split.
constexpr int32_t kChunkTokens[] = {1, 33, 7, 1031, 16, 257};
constexpr int32_t kMaxBatchedTokens = 1031;

template <typename T>
absl::StatusOr<std::vector<T>> ReadTensor(const SafetensorsFile& file, const std::string& name,
                                          FileDType dtype) {
  const TensorInfo* tensor = file.Find(name);
  if (tensor == nullptr) {
    return absl::InvalidArgumentError(absl::StrCat(file.path(), ": tensor ", name, " is missing"));
  }
  if (tensor->dtype != dtype) {
    return absl::InvalidArgumentError(absl::StrCat(file.path(), ": tensor ", name, " is ",
                                                   FileDTypeName(tensor->dtype), ", must be ",
                                                   FileDTypeName(dtype)));
  }
  const absl::Span<const uint8_t> bytes = file.Bytes(*tensor);
  std::vector<T> values(bytes.size() / sizeof(T));
  std::memcpy(values.data(), bytes.data(), bytes.size());
  return values;
}

}  // namespace

std::vector<int32_t> Golden::Tokens() const {
  std::vector<int32_t> tokens = prompt;
  tokens.insert(tokens.end(), greedy.begin(), greedy.end() - 1);
  return tokens;
}

std::string GoldenPath(const std::string& name) {
  return absl::StrCat(BORA_SOURCE_DIR, "/tests/conformance/goldens/", name);
}

absl::StatusOr<Golden> LoadGolden(const std::string& name) {
  ASSIGN_OR_RETURN(const SafetensorsFile file,
                   SafetensorsFile::Open(GoldenPath(name + ".safetensors")));
  Golden golden;
  ASSIGN_OR_RETURN(golden.prompt, ReadTensor<int32_t>(file, "prompt", FileDType::kI32));
  ASSIGN_OR_RETURN(golden.greedy, ReadTensor<int32_t>(file, "greedy", FileDType::kI32));
  ASSIGN_OR_RETURN(golden.positions, ReadTensor<int32_t>(file, "positions", FileDType::kI32));
  ASSIGN_OR_RETURN(golden.logits, ReadTensor<float>(file, "logits", FileDType::kF32));
  if (file.Find("logits_bf16") != nullptr) {
    ASSIGN_OR_RETURN(golden.logits_bf16, ReadTensor<float>(file, "logits_bf16", FileDType::kF32));
  }
  const int64_t n_rows = static_cast<int64_t>(golden.positions.size());
  const int64_t n_logits = static_cast<int64_t>(golden.logits.size());
  if (n_rows == 0 || n_logits % n_rows != 0 || golden.prompt.empty() || golden.greedy.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat(file.path(), ": ", n_logits, " logits do not fit ", n_rows, " positions of ",
                     golden.prompt.size(), " + ", golden.greedy.size(), " tokens"));
  }
  golden.vocab_size = n_logits / n_rows;
  return golden;
}

std::string CaseName(const testing::TestParamInfo<ConformanceCase>& info) {
  const ConformanceCase& c = info.param;
  return absl::StrCat(c.checkpoint, "_on_", c.golden, "_tp", c.tp_size, "_pp", c.pp_size,
                      c.dtype == DType::kF16 ? "_float16" : "");
}

double MaxAbs(absl::Span<const float> row) {
  double max = 0;
  for (const float value : row) max = std::max(max, std::abs(static_cast<double>(value)));
  return max;
}

GroupLimits LimitsForSequence(int64_t vocab_size, int64_t n_tokens) {
  GroupLimits limits;
  limits.max_num_seqs = kSlot + 1;
  limits.max_num_batched_tokens = kMaxBatchedTokens;
  limits.max_model_len = static_cast<int32_t>(n_tokens);
  limits.n_blocks = CeilDiv(limits.max_model_len, limits.block_size) + 3;
  limits.vocab_size = static_cast<int32_t>(vocab_size);
  return limits;
}

std::vector<absl::Span<const int32_t>> OddChunks(absl::Span<const int32_t> tokens,
                                                 const GroupLimits& limits) {
  std::vector<absl::Span<const int32_t>> chunks;
  for (size_t begin = 0, i = 0; begin < tokens.size(); ++i) {
    const int32_t wanted = kChunkTokens[i % std::size(kChunkTokens)];
    chunks.push_back(tokens.subspan(begin, std::min(wanted, limits.max_num_batched_tokens)));
    begin += chunks.back().size();
  }
  return chunks;
}

}  // namespace bora

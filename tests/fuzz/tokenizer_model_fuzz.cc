// Any bytes as a tokenizer.model, and any bytes as a text and as ids. What must hold: no crash, no
// unbounded work, ids inside the vocabulary and no control ids from text, valid UTF-8 out, streams
// equal to the whole, and a text that decodes to itself where the vocabulary loses nothing.
#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "base/check.h"
#include "base/utf8.h"
#include "model/text/detokenizer.h"
#include "model/text/tokenizer.h"
#include "model/text/tokenizer_model.h"
#include "tests/model/tokenizer_testing.h"

namespace bora {
namespace {

void CheckDecode(const Tokenizer& tokenizer, const std::vector<int32_t>& ids) {
  Detokenizer detokenizer(&tokenizer);
  std::string text;
  for (const int32_t id : ids) {
    const std::string part = detokenizer.Append(id);
    CHECK(IsValidUtf8(part));
    text += part;
  }
  text += detokenizer.Finish();
  CHECK(text == tokenizer.Decode(ids));
}

std::vector<int32_t> CheckEncode(const Tokenizer& tokenizer, absl::string_view text) {
  std::vector<int32_t> ids = tokenizer.Encode(text);
  for (const int32_t id : ids) {
    CHECK(id >= 0 && id < tokenizer.vocab_size()) << id;
    CHECK(!tokenizer.IsControl(id)) << id;
  }
  CHECK_LE(tokenizer.MinTokens(static_cast<int64_t>(text.size())), std::ssize(ids));
  CheckDecode(tokenizer, ids);
  return ids;
}

// Ids from the bytes of `data`, around the first 512 and the ends of the vocabulary.
std::vector<int32_t> MakeIds(const Tokenizer& tokenizer, absl::string_view data) {
  std::vector<int32_t> ids;
  for (size_t i = 0; i + 1 < data.size(); i += 2) {
    const int32_t number = static_cast<uint8_t>(data[i]) | (data[i + 1] & 1) << 8;
    ids.push_back((data[i + 1] & 2) != 0 ? tokenizer.vocab_size() - number : number);
  }
  return ids;
}

Tokenizer MakeFixed(bool lossless) {
  std::vector<Piece> pieces = {{"▁", -9},
                               {"▁a", -1},
                               {"ab", -2},
                               {"ba", -2},
                               {"aba", -3},
                               {"▁▁", -4},
                               {"é", -5},
                               {"\r\n", -6},
                               {"a", -8},
                               {"<a>", 0, PieceType::kUserDefined},
                               {"> ", 0, PieceType::kUserDefined},
                               {"b▁", 0, PieceType::kUserDefined}};
  if (!lossless) pieces.push_back({"abab", -1, PieceType::kUnused});
  Vocabulary vocabulary = MakeVocabulary(lossless, pieces);
  vocabulary.add_dummy_prefix = true;
  vocabulary.remove_extra_whitespaces = !lossless;
  return MakeTokenizer(std::move(vocabulary));
}

void FuzzFixed(absl::string_view data) {
  static const Tokenizer lossless = MakeFixed(true);
  static const Tokenizer lossy = MakeFixed(false);
  CheckEncode(lossy, data);
  CheckDecode(lossy, MakeIds(lossy, data));
  CheckDecode(lossless, MakeIds(lossless, data));
  const std::vector<int32_t> ids = CheckEncode(lossless, data);
  // The space symbol in a text cannot be told from a space.
  const bool is_itself = IsValidUtf8(data) && data.find(kSpaceSymbol) == absl::string_view::npos;
  if (is_itself) CHECK(lossless.Decode(ids) == data);
}

}  // namespace
}  // namespace bora

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t n_bytes) {
  const absl::string_view data(reinterpret_cast<const char*>(bytes), n_bytes);
  bora::FuzzFixed(data);
  absl::StatusOr<bora::Vocabulary> vocabulary = bora::ParseSentencePieceModel(data);
  if (!vocabulary.ok()) return 0;
  const absl::StatusOr<bora::Tokenizer> tokenizer = bora::Tokenizer::Create(*std::move(vocabulary));
  if (!tokenizer.ok()) return 0;
  // The model's own bytes are a text full of its pieces.
  bora::CheckEncode(*tokenizer, data);
  bora::CheckDecode(*tokenizer, bora::MakeIds(*tokenizer, data));
  return 0;
}

// Runs our tokenizer over lines, in the formats of spm_encode and spm_decode, for
// tests/conformance/tokenizer_parity.py.
//
//   tokenizer_cli encode MODEL      lines of text on stdin -> lines of ids
//   tokenizer_cli encode0 MODEL     the same for texts that end in a NUL instead of a newline
//   tokenizer_cli decode MODEL      lines of ids on stdin -> the text of each and a newline
//   tokenizer_cli stream MODEL      as decode, through the incremental detokenizer, primed with the
//                                   first half of each line
//   tokenizer_cli size MODEL        prints the number of pieces
//   tokenizer_cli speed MODEL       all of stdin is one text: prints bytes, tokens and CPU seconds

#include <cstdio>
#include <ctime>
#include <iostream>
#include <iterator>
#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "base/check.h"
#include "base/utf8.h"
#include "model/text/detokenizer.h"
#include "model/text/tokenizer.h"
#include "model/text/tokenizer_model.h"

namespace bora {
namespace {

std::vector<int32_t> ParseIds(const std::string& line) {
  std::vector<int32_t> ids;
  for (const absl::string_view number : absl::StrSplit(line, ' ', absl::SkipEmpty())) {
    int32_t id = 0;
    CHECK(absl::SimpleAtoi(number, &id)) << "not an id: " << std::string(number);
    ids.push_back(id);
  }
  return ids;
}

// The text of `ids` from Prime and Append. The prompt's own text is Decode of it, which is only
// comparable where the prompt ends between characters: with byte pieces at its end, nothing is
// primed.
std::string StreamText(const Tokenizer& tokenizer, const std::vector<int32_t>& ids) {
  const absl::Span<const int32_t> all = ids;
  size_t n_prompt = ids.size() / 2;
  while (n_prompt > 0 && tokenizer.IsByte(ids[n_prompt - 1])) --n_prompt;
  Detokenizer detokenizer(&tokenizer);
  detokenizer.Prime(all.first(n_prompt));
  std::string text = tokenizer.Decode(all.first(n_prompt));
  for (const int32_t id : all.subspan(n_prompt)) {
    const std::string part = detokenizer.Append(id);
    CHECK(IsValidUtf8(part)) << "id " << id << " split a character";
    text += part;
  }
  return text + detokenizer.Finish();
}

void PrintSpeed(const Tokenizer& tokenizer) {
  const std::string text(std::istreambuf_iterator<char>(std::cin), {});
  const std::clock_t start = std::clock();  // CPU time: other tests may run beside this
  const size_t n_ids = tokenizer.Encode(text).size();
  const double seconds = static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC;
  std::printf("%zu %zu %.4f\n", text.size(), n_ids, seconds);
}

int Main(const std::string& mode, const std::string& model_path) {
  absl::StatusOr<Vocabulary> vocabulary = LoadSentencePieceModel(model_path);
  CHECK_OK(vocabulary.status());
  absl::StatusOr<Tokenizer> tokenizer = Tokenizer::Create(*std::move(vocabulary));
  CHECK_OK(tokenizer.status());
  if (mode == "size") {
    std::printf("%d\n", tokenizer->vocab_size());
    return 0;
  }
  if (mode == "speed") {
    PrintSpeed(*tokenizer);
    return 0;
  }
  std::ios::sync_with_stdio(false);
  std::string line;
  while (std::getline(std::cin, line, mode == "encode0" ? '\0' : '\n')) {
    if (mode == "decode") {
      std::cout << tokenizer->Decode(ParseIds(line)) << '\n';
    } else if (mode == "stream") {
      std::cout << StreamText(*tokenizer, ParseIds(line)) << '\n';
    } else {
      std::cout << absl::StrJoin(tokenizer->Encode(line), " ") << '\n';
    }
  }
  return 0;
}

}  // namespace
}  // namespace bora

int main(int argc, char** argv) {
  if (argc != 3) {
    std::fprintf(stderr, "usage: tokenizer_cli encode|encode0|decode|stream|size|speed MODEL\n");
    return 2;
  }
  return bora::Main(argv[1], argv[2]);
}

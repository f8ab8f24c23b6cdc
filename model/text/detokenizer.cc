#include "model/text/detokenizer.h"

#include "absl/strings/strip.h"
#include "base/check.h"
#include "base/utf8.h"

namespace bora {

Detokenizer::Detokenizer(const Tokenizer* tokenizer) : tokenizer_(*tokenizer) {}

void Detokenizer::Prime(absl::Span<const int32_t> prompt_ids) {
  std::string prompt_text;
  for (const int32_t id : prompt_ids) {
    AppendTo(id, &prompt_text);
    prompt_text.clear();
  }
}

std::string Detokenizer::Append(int32_t id) {
  std::string text;
  AppendTo(id, &text);
  return text;
}

std::string Detokenizer::Finish() {
  finished_ = true;
  std::string text;
  TakeCharacters(Tail::kEnds, &text);
  return text;
}

void Detokenizer::AppendTo(int32_t id, std::string* text) {
  CHECK(!finished_) << "Append after Finish";
  absl::string_view bytes = tokenizer_.TokenBytes(id);
  if (tokenizer_.IsByte(id)) {
    held_bytes_.append(bytes.data(), bytes.size());
    TakeCharacters(Tail::kMayContinue, text);
    return;
  }
  // Another piece ends a run of byte pieces: an incomplete character cannot be completed any more.
  TakeCharacters(Tail::kEnds, text);
  if (!has_text_ && !dropped_space_ && tokenizer_.DropsLeadingSpace(id)) {
    // Drops one space, the one that the piece's space symbol became. With remove_extra_whitespaces
    // every piece loses one until there is text; otherwise only the first, for the dummy prefix.
    absl::ConsumePrefix(&bytes, " ");
    dropped_space_ = !tokenizer_.removes_extra_whitespaces();
  }
  Put(bytes, text);
}

void Detokenizer::TakeCharacters(Tail tail, std::string* text) {
  absl::string_view rest = held_bytes_;
  while (!rest.empty()) {
    const size_t n_bytes = Utf8CharBytes(rest);
    if (n_bytes > 0) {
      Put(rest.substr(0, n_bytes), text);
      rest.remove_prefix(n_bytes);
    } else {
      if (tail == Tail::kMayContinue && IsUtf8Beginning(rest)) break;
      Put(kUtf8Replacement, text);
      rest.remove_prefix(1);
    }
  }
  held_bytes_.erase(0, held_bytes_.size() - rest.size());
}

void Detokenizer::Put(absl::string_view bytes, std::string* text) {
  if (!bytes.empty()) has_text_ = true;
  text->append(bytes.data(), bytes.size());
}

}  // namespace bora

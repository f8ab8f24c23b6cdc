#include "coordinator/engine/completion_text.h"

#include <algorithm>
#include <utility>

#include "base/check.h"

namespace bora {

CompletionText::CompletionText(const Tokenizer& tokenizer, absl::Span<const int32_t> prompt_tokens,
                               std::vector<std::string> stop, bool include_stop, int32_t min_tokens)
    : detokenizer_(&tokenizer), include_stop_(include_stop), n_unsearched_tokens_(min_tokens) {
  detokenizer_.Prime(prompt_tokens);
  for (std::string& text : stop) {
    CHECK(!text.empty()) << "empty stop sequence";
    // The failure function of Knuth, Morris and Pratt.
    Pattern pattern;
    pattern.border.assign(text.size() + 1, 0);
    int32_t border = 0;
    for (size_t i = 1; i < text.size(); ++i) {
      while (border > 0 && text[i] != text[border]) border = pattern.border[border];
      if (text[i] == text[border]) ++border;
      pattern.border[i + 1] = border;
    }
    pattern.text = std::move(text);
    patterns_.push_back(std::move(pattern));
  }
}

CompletionText::Piece CompletionText::Append(int32_t token_id) {
  CHECK(!ended_) << "Append after the end of the text";
  Piece piece;
  std::string text = detokenizer_.Append(token_id);
  if (patterns_.empty() || n_unsearched_tokens_ > 0) {
    n_unsearched_tokens_ -= n_unsearched_tokens_ > 0 ? 1 : 0;
    piece.delta = std::move(text);
  } else {
    Search(text, &piece);
  }
  ended_ = piece.stop_sequence_matched.has_value();
  return piece;
}

std::string CompletionText::Finish() {
  if (ended_) return std::string();
  ended_ = true;
  Piece piece;
  const std::string tail = detokenizer_.Finish();
  if (n_unsearched_tokens_ > 0) {
    piece.delta = tail;
  } else {
    Search(tail, &piece);
  }
  if (!piece.stop_sequence_matched.has_value()) piece.delta += held_;
  return std::move(piece.delta);
}

void CompletionText::Search(absl::string_view text, Piece* piece) {
  for (size_t i = 0; i < text.size(); ++i) {
    const int match_idx = Advance(text[i]);
    if (match_idx < 0) continue;
    const std::string& stop = patterns_[match_idx].text;
    held_.append(text.data(), i + 1);
    if (!include_stop_) held_.resize(held_.size() - stop.size());
    piece->delta = std::move(held_);
    piece->stop_sequence_matched = stop;
    return;
  }
  held_.append(text.data(), text.size());
  // The text up to the longest partial match is certain. A partial match begins at the first byte
  // of a character, since every stop sequence does: the cut divides no character.
  int32_t n_held_bytes = 0;
  for (const Pattern& pattern : patterns_) {
    n_held_bytes = std::max(n_held_bytes, pattern.n_matched);
  }
  piece->delta = held_.substr(0, held_.size() - n_held_bytes);
  held_.erase(0, held_.size() - n_held_bytes);
}

int CompletionText::Advance(char byte) {
  int match_idx = -1;
  for (size_t p = 0; p < patterns_.size(); ++p) {
    Pattern& pattern = patterns_[p];
    int32_t n_matched = pattern.n_matched;
    while (n_matched > 0 && pattern.text[n_matched] != byte) n_matched = pattern.border[n_matched];
    if (pattern.text[n_matched] == byte) ++n_matched;
    pattern.n_matched = n_matched;
    if (n_matched < static_cast<int32_t>(pattern.text.size())) continue;
    if (match_idx < 0 || pattern.text.size() > patterns_[match_idx].text.size()) {
      match_idx = static_cast<int>(p);
    }
  }
  return match_idx;
}

}  // namespace bora

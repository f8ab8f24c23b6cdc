// From generated token ids to the text that a client sees: whole characters only, and nothing that
// may still turn out to be part of a stop sequence.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "model/text/detokenizer.h"
#include "model/text/tokenizer.h"

namespace bora {

// Let T be the text that the tokens add to the prompt (Detokenizer), and S the part of T after the
// first `min_tokens` tokens. The completion's text is T, cut at the stop sequence that is the first
// to be complete in S; of several that are complete at the same byte the longest counts. This
// choice depends on the bytes alone, not on their division into tokens, and needs no look-ahead:
// generation ends with the token that completes a stop sequence.
//
// Cost of a token: its bytes times the number of stop sequences, whatever the length of the text.
// Owned by one thread at a time.
class CompletionText {
 public:
  struct Piece {
    std::string delta;  // valid UTF-8
    // Set when the text is over: which stop sequence was found.
    std::optional<std::string> stop_sequence_matched;
  };

  // `tokenizer` must outlive this. `stop`: non-empty, valid UTF-8. With `include_stop` the text
  // ends after the stop sequence, else before it.
  CompletionText(const Tokenizer& tokenizer, absl::Span<const int32_t> prompt_tokens,
                 std::vector<std::string> stop, bool include_stop, int32_t min_tokens);

  // Takes the next generated token; returns the text that is now certain. REQUIRES: the token is
  // not a stop token that ends the generation, as such a token has no text; no stop sequence has
  // been matched, and Finish has not been called.
  Piece Append(int32_t token_id);

  // Generation has ended for another reason than a stop sequence: returns the text that was held
  // back, with an incomplete character at its end as U+FFFD. If U+FFFD completes a stop sequence,
  // the text is cut there too. Empty after a match.
  std::string Finish();

 private:
  // One stop sequence as a Knuth-Morris-Pratt automaton over bytes.
  struct Pattern {
    std::string text;
    // [text.size() + 1]: length of the longest proper border of the first i bytes.
    std::vector<int32_t> border;
    int32_t n_matched = 0;  // bytes of the pattern that the end of the text matches
  };

  // Searches `text`, the continuation of the text searched before, and moves the part that no stop
  // sequence can begin in, cut at a match, to `piece`.
  void Search(absl::string_view text, Piece* piece);
  // Advances every automaton by one byte; the index of the longest that is complete, or -1.
  int Advance(char byte);

  Detokenizer detokenizer_;
  std::vector<Pattern> patterns_;
  const bool include_stop_;
  int32_t n_unsearched_tokens_;  // tokens to come before the search begins
  std::string held_;             // the end of the text that may begin a stop sequence
  bool ended_ = false;
};

}  // namespace bora

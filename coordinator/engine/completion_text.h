// Turns generated token ids into the text that a client sees. The text has whole characters only,
// and text that may still turn out to be part of a stop sequence is held back.
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

// Let T be the text that the generated tokens add to the prompt (see Detokenizer), and S the part
// of T after the first `min_tokens` tokens. Stop sequences are searched in S. The first one that is
// complete counts; if several are complete at the same byte, the longest of them. The completion's
// text is T, cut at that stop sequence. The choice depends on the bytes alone, not on their
// division into tokens, and needs no look-ahead: the token that completes a stop sequence ends the
// generation.
//
// Cost of a token: its bytes times the number of stop sequences, independent of the length of the
// text. Owned by one thread at a time.
class CompletionText {
 public:
  // What a token adds to the text.
  struct Piece {
    std::string delta;  // new text, valid UTF-8; may be empty
    // The stop sequence that was found. If it is set, the text is complete.
    std::optional<std::string> stop_sequence_matched;
  };

  // `tokenizer` must outlive this. `prompt_tokens` are only read here. `stop`: the stop sequences,
  // each non-empty and valid UTF-8. If `include_stop`, the text ends after the stop sequence, else
  // before it. min_tokens: no stop sequence is searched in the text of as many tokens.
  CompletionText(const Tokenizer& tokenizer, absl::Span<const int32_t> prompt_tokens,
                 std::vector<std::string> stop, bool include_stop, int32_t min_tokens);

  // Takes the next generated token and returns the text that can no longer change. REQUIRES: the
  // token is not a stop token that ends the generation (such a token has no text), no stop sequence
  // has been found, and Finish has not been called.
  Piece Append(int32_t token_id);

  // Ends a text that no stop sequence has ended. Returns the text that was held back, with U+FFFD
  // in place of an incomplete character at its end. If that U+FFFD completes a stop sequence, the
  // text is cut there too. Returns "" if a stop sequence has been found.
  std::string Finish();

 private:
  // One stop sequence as a Knuth-Morris-Pratt automaton over bytes.
  struct Pattern {
    std::string text;
    // [text.size() + 1] element i: length of the longest proper border of the first i bytes, that
    // is of a shorter string that they both begin and end with.
    std::vector<int32_t> border;
    int32_t n_matched = 0;  // how many first bytes of the pattern are the end of the text so far
  };

  // Appends `text` to held_ and searches it. Moves the part of held_ that cannot belong to a stop
  // sequence any more to `piece`; if a stop sequence is found, everything up to the cut.
  void Search(absl::string_view text, Piece* piece);
  // Advances every automaton by one byte. Returns the index of the longest pattern that is complete
  // now, or -1 if none is.
  int Advance(char byte);

  Detokenizer detokenizer_;
  std::vector<Pattern> patterns_;
  const bool include_stop_;
  int32_t n_unsearched_tokens_;  // tokens that are still to come before the search begins
  std::string held_;    // the end of the text, which may be the beginning of a stop sequence
  bool ended_ = false;  // a stop sequence was found, or Finish was called
};

}  // namespace bora

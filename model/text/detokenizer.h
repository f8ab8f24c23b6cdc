// Token ids to text, one id at a time, for streams: what has been given out is final and always
// whole characters.
#pragma once

#include <cstdint>
#include <string>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "model/text/tokenizer.h"

namespace bora {

// For every sequence of ids, Append(id 0) + Append(id 1) + ... + Finish() is
// tokenizer.Decode(ids), and each of the parts is valid UTF-8.
//
// After Prime(prompt) the parts are what the output adds to the prompt:
//   Decode(prompt) + Append... + Finish() == Decode(prompt + output)
// whenever the prompt does not end inside a character. So the space in front of the first output
// word is kept after a prompt with text, and dropped (where the vocabulary drops it) after bos
// alone. A character that the prompt's byte pieces begin and the output's end belongs, whole, to
// the output.
//
// Owned by one thread at a time.
class Detokenizer {
 public:
  // `tokenizer` must outlive this.
  explicit Detokenizer(const Tokenizer* tokenizer);

  // Takes the ids before the first that counts, without text for them. To be called first.
  void Prime(absl::Span<const int32_t> prompt_ids);

  // The text that is now certain: none while byte pieces have only begun a character (at most three
  // bytes are held back). An id outside the vocabulary counts as the unknown id. Not after Finish.
  std::string Append(int32_t id);
  // The same, behind what `text` has: for many ids without a string for each.
  void AppendTo(int32_t id, std::string* text);

  // The bytes of a character that was begun and may still be completed; at most 3.
  absl::string_view incomplete() const { return held_bytes_; }

  // The rest: U+FFFD for each byte of a character that was begun and not completed.
  std::string Finish();

 private:
  enum class Tail { kMayContinue, kEnds };
  // Moves the characters of held_bytes_ to `text`, U+FFFD for each invalid byte. kMayContinue
  // leaves the beginning of a character.
  void TakeCharacters(Tail tail, std::string* text);
  void Put(absl::string_view bytes, std::string* text);

  const Tokenizer& tokenizer_;
  std::string held_bytes_;  // at most 3 between calls
  bool has_text_ = false;   // anything was given out, the prompt's text included
  // A leading space symbol was dropped, and the next piece keeps its own.
  bool dropped_space_ = false;
  bool finished_ = false;
};

}  // namespace bora

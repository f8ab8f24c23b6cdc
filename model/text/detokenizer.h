// Turns token ids into text one id at a time, for streams. Text that was returned is final and
// consists of whole characters.
#pragma once

#include <cstdint>
#include <string>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "model/text/tokenizer.h"

namespace bora {

// For every sequence of ids, Append(id 0) + Append(id 1) + ... + Finish() equals
// tokenizer.Decode(ids), and each part is valid UTF-8.
//
// After Prime(prompt), the parts are the text that the output adds to the prompt:
//   Decode(prompt) + Append... + Finish() == Decode(prompt + output)
// if the prompt does not end inside a character. So the space before the first word of the output
// is kept after a prompt with text, and dropped (if the vocabulary drops it) after bos alone. A
// character whose bytes begin in the prompt and end in the output belongs to the output as a whole.
//
// Owned by one thread at a time.
class Detokenizer {
 public:
  // `tokenizer` must outlive this object.
  explicit Detokenizer(const Tokenizer* tokenizer);

  // Takes the ids of the prompt, without returning their text. Call before the first Append.
  void Prime(absl::Span<const int32_t> prompt_ids);

  // Adds `id` and returns the text that is now certain. It is empty while byte pieces have only
  // begun a character (at most three bytes are held back). An id outside the vocabulary counts as
  // the unknown id. REQUIRES: Finish() was not called (CHECK).
  std::string Append(int32_t id);
  // The same, but appends to *text, which saves a string per id.
  void AppendTo(int32_t id, std::string* text);

  // Bytes of a character that has begun and may still be completed; 0 to 3.
  absl::string_view incomplete() const { return held_bytes_; }

  // Ends the text: returns U+FFFD for each byte of a character that was begun and not completed.
  std::string Finish();

 private:
  // Whether more bytes may follow held_bytes_.
  enum class Tail { kMayContinue, kEnds };
  // Moves all characters of held_bytes_ to *text, with U+FFFD for each invalid byte. With
  // kMayContinue an incomplete character at the end stays.
  void TakeCharacters(Tail tail, std::string* text);
  // Appends final bytes to *text.
  void Put(absl::string_view bytes, std::string* text);

  const Tokenizer& tokenizer_;
  std::string held_bytes_;  // at most 3 between calls
  bool has_text_ = false;   // some text was produced, by the prompt or the output
  // A leading space was dropped, so the next piece keeps its own.
  bool dropped_space_ = false;
  bool finished_ = false;
};

}  // namespace bora

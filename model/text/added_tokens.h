// Tokens that a fine-tune has added after the tokens of tokenizer.model, for example ChatML's
// <|im_start|> and <|im_end|>. Only JSON files beside tokenizer.model name them.
#pragma once

#include <cstdint>
#include <map>
#include <string>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "model/text/tokenizer.h"

namespace bora {

using AddedTokens = std::map<int32_t, std::string>;  // token id -> text

// The tokens that added_tokens.json, and added_tokens_decoder in tokenizer_config.json, name in the
// folder `dir`. May include tokens that tokenizer.model has too. Empty if neither file exists.
// INVALID_ARGUMENT names the file and the entry that has no valid id and text, or the id that has
// two texts.
absl::StatusOr<AddedTokens> ReadAddedTokens(const std::string& dir);

// Appends control pieces to the vocabulary, up to the greatest id in `added` or `eos_ids` that is
// below vocab_size. Such a token can be sampled, and given by its id; it has no text and is never
// found in text. Ids in between that no file names get pieces too, since a vocabulary's ids have no
// gaps.
void AppendAddedTokens(const AddedTokens& added, absl::Span<const int32_t> eos_ids,
                       int64_t vocab_size, Vocabulary* vocabulary);

}  // namespace bora

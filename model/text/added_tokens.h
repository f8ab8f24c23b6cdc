// Tokens that a fine-tune has added behind those of tokenizer.model: ChatML's <|im_start|> and
// <|im_end|>, for example, which only JSON files beside it name.
#pragma once

#include <cstdint>
#include <map>
#include <string>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "model/text/tokenizer.h"

namespace bora {

using AddedTokens = std::map<int32_t, std::string>;  // text by id

// What added_tokens.json and the added_tokens_decoder of tokenizer_config.json in `dir` name, the
// tokens that tokenizer.model has too included; empty without these files. INVALID_ARGUMENT names
// the file and the entry that is no id with a text, or two texts of one id.
absl::StatusOr<AddedTokens> ReadAddedTokens(const std::string& dir);

// Appends a control piece for each id from the vocabulary's size to the greatest one in `added` or
// `eos_ids` that is below vocab_size: such a token can be drawn and given by its id, has no text
// and is never found in text. Ids in between that nothing names are appended too, since the ids of
// a vocabulary have no gaps.
void AppendAddedTokens(const AddedTokens& added, absl::Span<const int32_t> eos_ids,
                       int64_t vocab_size, Vocabulary* vocabulary);

}  // namespace bora

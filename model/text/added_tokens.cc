#include "model/text/added_tokens.h"

#include <algorithm>
#include <utility>

#include "absl/container/flat_hash_set.h"
#include "absl/status/status.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "model/config.h"
#include "model/json.h"

namespace bora {
namespace {

using Json = nlohmann::json;

// Adds one token. INVALID_ARGUMENT if the id is out of range or has another text already.
absl::Status Add(int64_t id, const std::string& text, AddedTokens* added) {
  if (id < 0 || id >= kMaxVocabSize) {
    return absl::InvalidArgumentError(absl::StrCat("token ", JsonQuote(text), " has the id ", id,
                                                   ", must be in [0, ", kMaxVocabSize, ")"));
  }
  const auto [it, is_new] = added->emplace(static_cast<int32_t>(id), text);
  if (is_new || it->second == text) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("id ", id, " is ", JsonQuote(text), " here and ",
                                                 JsonQuote(it->second), " elsewhere"));
}

// Reads added_tokens.json: {"<|im_end|>": 32000}.
absl::Status AddFromAddedTokens(const Json& json, AddedTokens* added) {
  if (!json.is_object()) return absl::InvalidArgumentError("must be a JSON object");
  for (const auto& [text, id] : json.items()) {
    if (!id.is_number_integer()) {
      return absl::InvalidArgumentError(absl::StrCat(JsonQuote(text), " has no integer id"));
    }
    RETURN_IF_ERROR(Add(id.get<int64_t>(), text, added));
  }
  return absl::OkStatus();
}

// Reads tokenizer_config.json: {"added_tokens_decoder": {"32000": {"content": "<|im_end|>", ...}}}.
absl::Status AddFromTokenizerConfig(const Json& json, AddedTokens* added) {
  if (!json.is_object()) return absl::InvalidArgumentError("must be a JSON object");
  const auto decoder = json.find("added_tokens_decoder");
  if (decoder == json.end() || decoder->is_null()) return absl::OkStatus();
  if (!decoder->is_object()) {
    return absl::InvalidArgumentError("added_tokens_decoder must be an object");
  }
  for (const auto& [id_text, token] : decoder->items()) {
    int64_t id = 0;
    const auto content = token.is_object() ? token.find("content") : token.end();
    if (!absl::SimpleAtoi(id_text, &id) || content == token.end() || !content->is_string()) {
      return absl::InvalidArgumentError(absl::StrCat(
          "added_tokens_decoder: entry ", JsonQuote(id_text), " is not an id with a content"));
    }
    RETURN_IF_ERROR(Add(id, content->get<std::string>(), added));
  }
  return absl::OkStatus();
}

// Calls `add` with the JSON of the file at `path`; OK without a call if the file does not exist.
absl::Status ReadFile(const std::string& path, absl::Status (*add)(const Json&, AddedTokens*),
                      AddedTokens* added) {
  const absl::StatusOr<std::string> text = ReadSmallFile(path, kMaxJsonBytes);
  if (absl::IsNotFound(text.status())) return absl::OkStatus();
  RETURN_IF_ERROR(text.status());
  const absl::StatusOr<Json> json = ParseJson(*text);
  RETURN_IF_ERROR(Annotate(json.status(), path));
  return Annotate(add(*json, added), path);
}

}  // namespace

absl::StatusOr<AddedTokens> ReadAddedTokens(const std::string& dir) {
  AddedTokens added;
  RETURN_IF_ERROR(ReadFile(absl::StrCat(dir, "/added_tokens.json"), AddFromAddedTokens, &added));
  RETURN_IF_ERROR(
      ReadFile(absl::StrCat(dir, "/tokenizer_config.json"), AddFromTokenizerConfig, &added));
  return added;
}

void AppendAddedTokens(const AddedTokens& added, absl::Span<const int32_t> eos_ids,
                       int64_t vocab_size, Vocabulary* vocabulary) {
  int64_t end = static_cast<int64_t>(vocabulary->pieces.size());
  const auto include = [&](int32_t id) {
    if (id < vocab_size) end = std::max(end, int64_t{id} + 1);
  };
  for (const auto& [id, text] : added) include(id);
  for (const int32_t id : eos_ids) include(id);
  absl::flat_hash_set<std::string> texts;
  for (const Piece& piece : vocabulary->pieces) texts.insert(piece.text);
  for (auto id = static_cast<int32_t>(vocabulary->pieces.size()); id < end; ++id) {
    const auto it = added.find(id);
    // A control piece's text is only a name, but Tokenizer::Create requires every text to be
    // unique.
    std::string text = absl::StrCat("<added token ", id, ">");
    if (it != added.end() && !it->second.empty() && it->second.size() <= kMaxPieceBytes &&
        !texts.contains(it->second)) {
      text = it->second;
    }
    texts.insert(text);
    vocabulary->pieces.push_back({.text = std::move(text), .type = PieceType::kControl});
  }
}

}  // namespace bora

#include "model/text/tokenizer.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/strip.h"
#include "base/check.h"
#include "base/int_math.h"
#include "base/status_macros.h"
#include "base/utf8.h"
#include "model/text/detokenizer.h"

namespace bora {
namespace {

// The byte of a byte piece's text, for example 0x0A for "<0x0A>"; nullopt for other texts.
std::optional<uint8_t> ParseBytePiece(absl::string_view text) {
  constexpr absl::string_view kDigits = "0123456789ABCDEF";
  if (text.size() != 6 || !absl::ConsumePrefix(&text, "<0x") || text[2] != '>') {
    return std::nullopt;
  }
  const size_t high = kDigits.find(text[0]);
  const size_t low = kDigits.find(text[1]);
  if (high == absl::string_view::npos || low == absl::string_view::npos) return std::nullopt;
  return static_cast<uint8_t>(high * 16 + low);
}

bool IsMergeable(PieceType type) {
  return type == PieceType::kNormal || type == PieceType::kUserDefined ||
         type == PieceType::kUnused;
}

// A code point beyond the last one: stands for a missing character.
constexpr char32_t kNoChar = 0x110000;

}  // namespace

// Merges the characters of a text into pieces.
//
// The text is cut into stretches, between characters that are neighbours in no piece. No merge
// crosses such a cut, so each stretch is merged on its own, in buffers that stay in the cache. In
// most texts a stretch is about a word, since pieces have spaces only at the front.
//
// The symbols of a stretch form a linked list. Every neighbouring pair whose concatenation is a
// piece waits to be merged. Pairs of the first symbols are in a sorted array, which for a long
// stretch is read twice as fast as a heap; pairs that merges create are in a heap. The pair with
// the highest score is merged next, the leftmost of equal ones; this creates at most two new pairs.
// Pairs that a merge has made obsolete stay, and are recognised by their length when their turn
// comes. Each merge removes a symbol, so n characters cause fewer than 3n pushes.
class Tokenizer::Merger {
 public:
  // `text` is normalised. Ids are appended to *ids.
  Merger(const Tokenizer& tokenizer, absl::string_view text, std::vector<int32_t>* ids)
      : tokenizer_(tokenizer), text_(text), ids_(*ids) {}

  // Appends the ids of the whole text. Call once.
  void Encode() {
    char32_t last_char = kNoChar;
    for (size_t at = 0; at < text_.size();) {
      size_t n_bytes = tokenizer_.MatchUserDefined(text_.substr(at));
      const bool frozen = n_bytes > 0;
      if (!frozen) n_bytes = Utf8CharBytes(text_.substr(at));
      const absl::string_view symbol = text_.substr(at, n_bytes);
      const char32_t first_char = frozen ? kNoChar : Utf8Char(symbol);
      if (!tokenizer_.MayMergeAcross(last_char, first_char)) MergeAndEmit();
      last_char = first_char;
      const auto i = static_cast<int32_t>(symbols_.size());
      symbols_.push_back({{static_cast<uint32_t>(at), static_cast<uint32_t>(n_bytes),
                           tokenizer_.FindMergeable(symbol)},
                          i - 1,
                          i + 1,
                          frozen});
      at += n_bytes;
    }
    MergeAndEmit();
  }

 private:
  // A range of text_ that is a symbol.
  struct Span {
    uint32_t begin;
    uint32_t n_bytes;
    int32_t id;  // -1: no such piece
  };
  // One node of the linked list, with indices into symbols_; -1 at the ends.
  struct Symbol {
    Span span;  // n_bytes is 0 after the symbol was merged into its left neighbour
    int32_t prev;
    int32_t next;
    bool frozen;  // a user-defined piece, which no merge changes
  };
  // Two neighbours that could be merged.
  struct Pair {
    float score;
    int32_t left;      // index of the left symbol; the right one is its next
    uint32_t n_bytes;  // of both together when the pair was found
    int32_t id;        // the piece that the merge gives
    // The smaller pair is merged later.
    bool operator<(const Pair& other) const {
      return score < other.score || (score == other.score && left > other.left);
    }
    bool operator>(const Pair& other) const { return other < *this; }
  };

  absl::string_view TextOf(const Span& span) const {
    return text_.substr(span.begin, span.n_bytes);
  }

  // Turns symbols_, one stretch, into ids and empties it.
  void MergeAndEmit() {
    if (symbols_.empty()) return;
    symbols_.back().next = -1;
    first_pairs_.clear();
    for (int32_t i = 1; i < static_cast<int32_t>(symbols_.size()); ++i) {
      if (const auto pair = MakePair(i - 1, i)) first_pairs_.push_back(*pair);
    }
    std::sort(first_pairs_.begin(), first_pairs_.end(), std::greater<>());
    next_first_pair_ = 0;
    while (const auto best = TakeBestPair()) Merge(*best);
    for (int32_t i = 0; i != -1; i = symbols_[i].next) Emit(symbols_[i].span);
    symbols_.clear();
  }

  // The pair of two neighbours; nullopt if their concatenation is no piece or one is frozen.
  std::optional<Pair> MakePair(int32_t left, int32_t right) {
    const Symbol& a = symbols_[left];
    const Symbol& b = symbols_[right];
    if (a.frozen || b.frozen) return std::nullopt;
    const uint32_t n_bytes = a.span.n_bytes + b.span.n_bytes;
    const int32_t id = tokenizer_.FindMergeable(text_.substr(a.span.begin, n_bytes));
    if (id == -1) return std::nullopt;
    const Piece& piece = tokenizer_.vocabulary_.pieces[id];
    // As in SentencePiece: every occurrence of an unused piece is split in the way it was found
    // last, even an occurrence that was merged differently.
    if (piece.type == PieceType::kUnused) split_of_unused_[id] = {a.span, b.span};
    return Pair{piece.score, left, n_bytes, id};
  }

  // Adds the pair to the heap if it can be merged. -1 stands for the end of the stretch.
  void AddPair(int32_t left, int32_t right) {
    if (left == -1 || right == -1) return;
    if (const auto pair = MakePair(left, right)) {
      heap_.push_back(*pair);
      std::push_heap(heap_.begin(), heap_.end());
    }
  }

  // Removes and returns the pair to merge next; nullopt if none is left.
  std::optional<Pair> TakeBestPair() {
    const bool has_first = next_first_pair_ < first_pairs_.size();
    if (!has_first && heap_.empty()) return std::nullopt;
    if (heap_.empty() || (has_first && heap_.front() < first_pairs_[next_first_pair_])) {
      return first_pairs_[next_first_pair_++];
    }
    const Pair best = heap_.front();
    std::pop_heap(heap_.begin(), heap_.end());
    heap_.pop_back();
    return best;
  }

  // Merges the pair, unless an earlier merge has changed one of its symbols.
  void Merge(const Pair& best) {
    Symbol& a = symbols_[best.left];
    if (a.span.n_bytes == 0 || a.next == -1) return;
    Symbol& b = symbols_[a.next];
    if (a.span.n_bytes + b.span.n_bytes != best.n_bytes) return;

    a.span = {a.span.begin, best.n_bytes, best.id};
    b.span.n_bytes = 0;
    a.next = b.next;
    if (a.next != -1) symbols_[a.next].prev = best.left;
    AddPair(a.prev, best.left);
    AddPair(best.left, a.next);
  }

  // Appends the ids of one final symbol. Unused pieces are split, left part first.
  void Emit(const Span& symbol) {
    to_emit_.assign(1, symbol);
    while (!to_emit_.empty()) {
      const Span span = to_emit_.back();
      to_emit_.pop_back();
      const auto split = split_of_unused_.find(span.id);
      if (split == split_of_unused_.end()) {
        EmitPiece(span);
      } else {
        to_emit_.push_back(split->second.second);
        to_emit_.push_back(split->second.first);
      }
    }
  }

  // Appends the id of a piece, the ids of an unknown character's bytes, or the unknown id.
  void EmitPiece(const Span& span) {
    const bool unknown = span.id == -1;
    if (!unknown) {
      ids_.push_back(span.id);
    } else if (tokenizer_.vocabulary_.byte_fallback) {
      for (const char byte : TextOf(span)) {
        ids_.push_back(tokenizer_.byte_id_[static_cast<uint8_t>(byte)]);
      }
    } else if (!after_unknown_) {  // a run of unknown characters gives one id
      ids_.push_back(tokenizer_.unk_id());
    }
    after_unknown_ = unknown;
  }

  const Tokenizer& tokenizer_;
  const absl::string_view text_;
  std::vector<int32_t>& ids_;
  std::vector<Symbol> symbols_;
  std::vector<Pair> first_pairs_;  // sorted in order of merging; next_first_pair_ is the next one
  size_t next_first_pair_ = 0;
  std::vector<Pair> heap_;
  // By id of the unused piece.
  absl::flat_hash_map<int32_t, std::pair<Span, Span>> split_of_unused_;
  std::vector<Span> to_emit_;   // stack of Emit
  bool after_unknown_ = false;  // the last symbol was unknown
};

absl::StatusOr<Tokenizer> Tokenizer::Create(Vocabulary vocabulary) {
  const auto n_pieces = static_cast<int64_t>(vocabulary.pieces.size());
  if (n_pieces < 1 || n_pieces > kMaxVocabularyPieces) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "vocabulary: %d pieces, supported are 1 to %d", n_pieces, kMaxVocabularyPieces));
  }
  if (vocabulary.treat_whitespace_as_suffix) {
    return absl::InvalidArgumentError("vocabulary: treat_whitespace_as_suffix is not supported");
  }
  if (!IsValidUtf8(vocabulary.unk_surface)) {
    return absl::InvalidArgumentError("vocabulary: unk_surface is not valid UTF-8");
  }
  Tokenizer tokenizer(std::move(vocabulary));
  RETURN_IF_ERROR(tokenizer.BuildIndex());
  RETURN_IF_ERROR(tokenizer.CheckSpecialIds());
  tokenizer.PrepareDecoding();
  return tokenizer;
}

Tokenizer::Tokenizer(Vocabulary vocabulary) : vocabulary_(std::move(vocabulary)) {
  byte_id_.fill(-1);
  trie_ends_.push_back(false);  // the root
}

absl::Status Tokenizer::BuildIndex() {
  id_of_piece_.reserve(vocabulary_.pieces.size());
  mergeable_.reserve(vocabulary_.pieces.size());
  for (int32_t id = 0; id < vocab_size(); ++id) {
    RETURN_IF_ERROR(Annotate(AddPiece(id), absl::StrFormat("vocabulary: piece %d", id)));
  }
  return absl::OkStatus();
}

// Checks piece `id` and adds it to the indexes.
absl::Status Tokenizer::AddPiece(int32_t id) {
  const Piece& piece = vocabulary_.pieces[id];
  const auto n_bytes = static_cast<int64_t>(piece.text.size());
  if (n_bytes < 1 || n_bytes > kMaxPieceBytes) {
    return absl::InvalidArgumentError(
        absl::StrFormat("has %d bytes, supported are 1 to %d", n_bytes, kMaxPieceBytes));
  }
  if (!IsValidUtf8(piece.text)) return absl::InvalidArgumentError("is not valid UTF-8");
  if (!std::isfinite(piece.score)) {
    return absl::InvalidArgumentError(
        absl::StrFormat("'%s' has score %f, which is not finite", piece.text, piece.score));
  }
  const auto [earlier, is_new] = id_of_piece_.emplace(piece.text, id);
  if (!is_new) {
    return absl::InvalidArgumentError(
        absl::StrFormat("'%s' is also piece %d", piece.text, earlier->second));
  }
  if (piece.type == PieceType::kUnknown && id != vocabulary_.unk_id) {
    return absl::InvalidArgumentError(absl::StrFormat("'%s' is of type unknown, but unk_id is %d",
                                                      piece.text, vocabulary_.unk_id));
  }
  if (piece.type == PieceType::kByte) {
    const std::optional<uint8_t> byte = ParseBytePiece(piece.text);
    if (!vocabulary_.byte_fallback || !byte.has_value()) {
      return absl::InvalidArgumentError(absl::StrFormat(
          "'%s' is of type byte, but %s", piece.text,
          byte.has_value() ? "byte_fallback is off" : "its text is not <0x00> to <0xFF>"));
    }
    byte_id_[*byte] = id;
  }
  if (IsMergeable(piece.type)) {
    mergeable_.emplace(piece.text, id);
    max_mergeable_bytes_ = std::max(max_mergeable_bytes_, piece.text.size());
    if (piece.type == PieceType::kUnused) has_unused_ = true;
    AddCharPairs(piece.text);
    if (piece.type == PieceType::kUserDefined) AddUserDefined(piece.text);
  }
  return absl::OkStatus();
}

void Tokenizer::AddCharPairs(absl::string_view piece_text) {
  char32_t last_char = kNoChar;
  while (!piece_text.empty()) {
    const char32_t next_char = Utf8Char(piece_text);
    if (last_char < 128 && next_char < 128) {
      ascii_pairs_.set(last_char * 128 + next_char);
    } else if (last_char != kNoChar) {
      char_pairs_.insert(uint64_t{last_char} << 32 | next_char);
    }
    last_char = next_char;
    piece_text.remove_prefix(Utf8CharBytes(piece_text));
  }
}

bool Tokenizer::MayMergeAcross(char32_t left, char32_t right) const {
  // The way an unused piece is split depends on merges anywhere in the text, so there are no cuts.
  if (has_unused_) return true;
  if (left < 128 && right < 128) return ascii_pairs_[left * 128 + right];
  return char_pairs_.contains(uint64_t{left} << 32 | right);
}

void Tokenizer::AddUserDefined(absl::string_view piece_text) {
  uint32_t node = 0;
  for (const char byte : piece_text) {
    const uint64_t edge = uint64_t{node} << 8 | static_cast<uint8_t>(byte);
    const auto [target, is_new] =
        trie_edges_.emplace(edge, static_cast<uint32_t>(trie_ends_.size()));
    if (is_new) trie_ends_.push_back(false);
    node = target->second;
  }
  trie_ends_[node] = true;
}

absl::Status Tokenizer::CheckSpecialIds() const {
  if (!HasType(vocabulary_.unk_id, PieceType::kUnknown)) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "vocabulary: unk_id is %d, which is no piece of type unknown", vocabulary_.unk_id));
  }
  const std::pair<const char*, int32_t> special_ids[] = {
      {"bos_id", bos_id()}, {"eos_id", eos_id()}, {"pad_id", pad_id()}};
  for (const auto& [name, id] : special_ids) {
    if (id != -1 && !IsControl(id)) {
      return absl::InvalidArgumentError(absl::StrFormat(
          "vocabulary: %s is %d, which is neither -1 nor a piece of type control", name, id));
    }
  }
  const auto missing = std::find(byte_id_.begin(), byte_id_.end(), -1);
  if (vocabulary_.byte_fallback && missing != byte_id_.end()) {
    return absl::InvalidArgumentError(
        absl::StrFormat("vocabulary: byte_fallback is on, but there is no byte piece <0x%02X>",
                        missing - byte_id_.begin()));
  }
  return absl::OkStatus();
}

void Tokenizer::PrepareDecoding() {
  token_bytes_.reserve(vocabulary_.pieces.size());
  for (const Piece& piece : vocabulary_.pieces) {
    switch (piece.type) {
      case PieceType::kControl:
        token_bytes_.emplace_back();
        break;
      case PieceType::kUnknown:
        token_bytes_.push_back(vocabulary_.unk_surface);
        break;
      case PieceType::kByte:
        token_bytes_.emplace_back(1, static_cast<char>(*ParseBytePiece(piece.text)));
        break;
      default:
        token_bytes_.push_back(absl::StrReplaceAll(piece.text, {{kSpaceSymbol, " "}}));
    }
  }
}

size_t Tokenizer::MatchUserDefined(absl::string_view text) const {
  size_t longest = 0;
  uint32_t node = 0;
  // Without user-defined pieces there are no edges, and the loop ends at once.
  for (size_t i = 0; i < text.size() && !trie_edges_.empty(); ++i) {
    const auto edge = trie_edges_.find(uint64_t{node} << 8 | static_cast<uint8_t>(text[i]));
    if (edge == trie_edges_.end()) break;
    node = edge->second;
    if (trie_ends_[node]) longest = i + 1;
  }
  return longest;
}

int32_t Tokenizer::FindMergeable(absl::string_view text) const {
  if (text.size() > max_mergeable_bytes_) return -1;
  const auto found = mergeable_.find(text);
  return found == mergeable_.end() ? -1 : found->second;
}

// Collapses and escapes spaces as the vocabulary requires and replaces each invalid byte. The order
// of the rules is SentencePiece's, although it is odd for texts in which a user-defined piece
// begins or ends with a space.
std::string Tokenizer::Normalize(absl::string_view text) const {
  const bool remove_extra = vocabulary_.remove_extra_whitespaces;
  const absl::string_view space = vocabulary_.escape_whitespaces ? kSpaceSymbol : " ";
  std::string normalized;
  if (remove_extra) {
    while (!text.empty() && text[0] == ' ' && MatchUserDefined(text) <= 1) text.remove_prefix(1);
  }
  if (text.empty()) return normalized;
  normalized.reserve(text.size() + text.size() / 2);
  if (vocabulary_.add_dummy_prefix) normalized.append(space.data(), space.size());

  bool after_space = remove_extra;
  while (!text.empty()) {
    size_t n_consumed = MatchUserDefined(text);
    if (n_consumed == 0) n_consumed = Utf8CharBytes(text);
    absl::string_view unit = n_consumed > 0 ? text.substr(0, n_consumed) : kUtf8Replacement;
    text.remove_prefix(std::max<size_t>(n_consumed, 1));
    while (after_space && absl::ConsumePrefix(&unit, " ")) {
    }
    if (unit.empty()) continue;
    after_space = remove_extra && unit.back() == ' ';
    for (const char byte : unit) {
      if (byte == ' ') {
        normalized.append(space.data(), space.size());
      } else {
        normalized.push_back(byte);
      }
    }
  }
  while (remove_extra && absl::EndsWith(normalized, space)) {
    normalized.resize(normalized.size() - space.size());
  }
  return normalized;
}

std::vector<int32_t> Tokenizer::Encode(absl::string_view text) const {
  CHECK_LE(static_cast<int64_t>(text.size()), kMaxTextBytes);
  std::vector<int32_t> ids;
  const std::string normalized = Normalize(text);
  Merger(*this, normalized, &ids).Encode();
  return ids;
}

int64_t Tokenizer::MinTokens(int64_t text_bytes) const {
  if (!vocabulary_.byte_fallback || vocabulary_.remove_extra_whitespaces) return 0;
  // Normalising never shortens a text of such a vocabulary, and an id covers at most the bytes of
  // the longest piece, or one byte.
  return CeilDiv(text_bytes, std::max<int64_t>(static_cast<int64_t>(max_mergeable_bytes_), 1));
}

std::string Tokenizer::Decode(absl::Span<const int32_t> ids) const {
  Detokenizer detokenizer(this);
  std::string text;
  for (const int32_t id : ids) detokenizer.AppendTo(id, &text);
  text += detokenizer.Finish();
  return text;
}

absl::string_view Tokenizer::TokenBytes(int32_t id) const {
  return token_bytes_[IsKnown(id) ? id : unk_id()];
}

absl::string_view Tokenizer::PieceText(int32_t id) const {
  CHECK(IsKnown(id)) << "token id " << id << ", vocabulary of " << vocab_size();
  return vocabulary_.pieces[id].text;
}

std::optional<int32_t> Tokenizer::FindPiece(absl::string_view piece_text) const {
  const auto found = id_of_piece_.find(piece_text);
  if (found == id_of_piece_.end()) return std::nullopt;
  return found->second;
}

bool Tokenizer::DropsLeadingSpace(int32_t id) const {
  if (!vocabulary_.add_dummy_prefix && !vocabulary_.remove_extra_whitespaces) return false;
  return IsKnown(id) && IsMergeable(vocabulary_.pieces[id].type) &&
         absl::StartsWith(vocabulary_.pieces[id].text, kSpaceSymbol);
}

}  // namespace bora

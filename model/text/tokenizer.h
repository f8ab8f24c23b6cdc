// Converts text to token ids and back, exactly as SentencePiece's BPE model does.
//
// The merges are implemented here, since the packaged SentencePiece library contains a protobuf of
// its own and cannot be in one process with gRPC. tests/conformance/tokenizer_parity.py compares
// the results with SentencePiece's command line tools. This file does not need protobuf;
// model/text/tokenizer_model.h reads vocabulary files.
#pragma once

#include <array>
#include <bitset>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace bora {

// U+2581 ("▁"), which stands for a space inside pieces.
inline constexpr absl::string_view kSpaceSymbol = "\xE2\x96\x81";

// The kinds of pieces, with the numbers of SentencePiece's file format.
enum class PieceType : int32_t {
  kNormal = 1,
  kUnknown = 2,
  kControl = 3,      // <s>, </s>: never found in text, decodes to nothing
  kUserDefined = 4,  // found in text before merging; never split or merged
  kUnused = 5,       // takes part in merges, and is split again in the result
  kByte = 6,         // "<0x41>": one byte of a character that has no piece
};

// One entry of a vocabulary. A plain value.
struct Piece {
  std::string text;  // UTF-8, with kSpaceSymbol for a space
  float score = 0;   // the pair with the highest score is merged first
  PieceType type = PieceType::kNormal;
};

// A vocabulary as data. The index in `pieces` is the token id. The defaults are those of the file
// format. A plain value.
struct Vocabulary {
  std::vector<Piece> pieces;
  int32_t unk_id = 0;
  int32_t bos_id = -1;  // -1: the vocabulary has none
  int32_t eos_id = -1;
  int32_t pad_id = -1;
  bool byte_fallback = false;    // a character without a piece becomes the pieces of its bytes
  bool add_dummy_prefix = true;  // put a space before every text
  bool remove_extra_whitespaces = true;  // no spaces at the ends of a text, one between words
  bool escape_whitespaces = true;        // ' ' becomes kSpaceSymbol
  // Spaces at the end of words instead of the front; not supported.
  bool treat_whitespace_as_suffix = false;
  std::string unk_surface = " \xE2\x81\x87 ";  // the text that the unknown id decodes to
};

// Limits of Tokenizer::Create. The largest published vocabularies have 256k pieces. SentencePiece's
// trainer allows pieces of 512 characters, at most 4 bytes each; twice that leaves room for
// user-defined pieces.
inline constexpr int64_t kMaxVocabularyPieces = 1'000'000;
inline constexpr int64_t kMaxPieceBytes = 4096;

// See the top of this file. Immutable after construction; const members are thread-safe.
class Tokenizer {
 public:
  // Checks the vocabulary and builds the indexes. INVALID_ARGUMENT names the piece and its fault:
  // no pieces or too many; a piece that is empty, longer than kMaxPieceBytes, not UTF-8 or there
  // twice; a score that is not finite; not exactly one unknown piece, at unk_id; a bos_id, eos_id
  // or pad_id that is neither -1 nor a control piece; byte pieces without byte_fallback, or fewer
  // than all 256 with it; an unk_surface that is not UTF-8; treat_whitespace_as_suffix.
  static absl::StatusOr<Tokenizer> Create(Vocabulary vocabulary);

  Tokenizer(Tokenizer&&) = default;
  Tokenizer& operator=(Tokenizer&&) = default;
  // Not copyable: the indexes of a copy would point into the pieces of the original.
  Tokenizer(const Tokenizer&) = delete;
  Tokenizer& operator=(const Tokenizer&) = delete;

  // The token ids of `text`, without bos and eos. Accepts any bytes; each invalid byte counts as
  // U+FFFD. Never returns a control id, even where SentencePiece would (for a control piece of a
  // single character), so that a prompt cannot forge one. REQUIRES: text.size() <= kMaxTextBytes
  // (CHECK).
  //
  // Cost: O(n log n) for n bytes. Measured with Mistral 7B's vocabulary on a busy machine with 2
  // cores: 5 MB/s (1.8 million ids/s) for English, with or without spaces; 2.4 MB/s for the worst
  // text found, one letter 10 million times. That text takes 60 times its bytes in memory, since
  // all of it may merge; English takes 5 times. Callers limit the text first, see MinTokens.
  std::vector<int32_t> Encode(absl::string_view text) const;

  // A lower bound of Encode(text).size() for any text of `text_bytes` bytes, in O(1), with which a
  // text over a token limit can be refused without encoding it. 0 if the vocabulary allows no bound
  // (runs of unknown characters or of spaces may collapse to one id or none).
  int64_t MinTokens(int64_t text_bytes) const;

  // The text of `ids`; always valid UTF-8. Control pieces give no text. A run of byte pieces gives
  // its characters, and U+FFFD for each byte that belongs to none. With add_dummy_prefix or
  // remove_extra_whitespaces the leading space is dropped. The unknown id, and any id outside [0,
  // vocab_size), gives unk_surface.
  std::string Decode(absl::Span<const int32_t> ids) const;

  // The bytes that the token adds in the middle of a text: the byte of a byte piece, nothing for a
  // control piece, unk_surface for the unknown id and for ids outside [0, vocab_size), else the
  // piece's text with spaces. The view is valid as long as this tokenizer.
  absl::string_view TokenBytes(int32_t id) const;

  // The piece's text as in the vocabulary, with kSpaceSymbol. REQUIRES: 0 <= id < vocab_size()
  // (CHECK).
  absl::string_view PieceText(int32_t id) const;

  // The id of the piece with exactly this text, of any type; nullopt if there is none.
  std::optional<int32_t> FindPiece(absl::string_view piece_text) const;

  int32_t vocab_size() const { return static_cast<int32_t>(vocabulary_.pieces.size()); }
  int32_t unk_id() const { return vocabulary_.unk_id; }
  int32_t bos_id() const { return vocabulary_.bos_id; }  // -1: none
  int32_t eos_id() const { return vocabulary_.eos_id; }  // -1: none
  int32_t pad_id() const { return vocabulary_.pad_id; }  // -1: none

  // Whether the token has this type; false for ids outside [0, vocab_size).
  bool IsControl(int32_t id) const { return HasType(id, PieceType::kControl); }
  bool IsByte(int32_t id) const { return HasType(id, PieceType::kByte); }

  // Whether Decode drops the piece's leading space symbol if no text precedes it.
  bool DropsLeadingSpace(int32_t id) const;
  // Whether Decode drops one space symbol of every piece until there is text (true), or only one in
  // all (false).
  bool removes_extra_whitespaces() const { return vocabulary_.remove_extra_whitespaces; }

  // Limit of Encode's text: offsets into the normalised text have 32 bits, of which 30 are used,
  // and a space takes three bytes there.
  static constexpr int64_t kMaxTextBytes = (int64_t{1} << 30) / 3;

 private:
  class Merger;

  explicit Tokenizer(Vocabulary vocabulary);
  // Adds every piece to the indexes below.
  absl::Status BuildIndex();
  absl::Status AddPiece(int32_t id);
  // Checks unk_id, bos_id, eos_id, pad_id and the completeness of the byte pieces.
  absl::Status CheckSpecialIds() const;
  // Adds the piece's pairs of neighbouring characters to ascii_pairs_ and char_pairs_.
  void AddCharPairs(absl::string_view piece_text);
  // Adds the piece to the trie.
  void AddUserDefined(absl::string_view piece_text);
  // Fills token_bytes_.
  void PrepareDecoding();

  bool IsKnown(int32_t id) const { return id >= 0 && id < vocab_size(); }
  bool HasType(int32_t id, PieceType type) const {
    return IsKnown(id) && vocabulary_.pieces[id].type == type;
  }
  // Bytes of the longest user-defined piece at the front of `text`; 0 if there is none.
  size_t MatchUserDefined(absl::string_view text) const;
  // The id of the mergeable piece with this text; -1 if there is none.
  int32_t FindMergeable(absl::string_view text) const;
  // False if no merge can join text ending in `left` with text beginning with `right`.
  bool MayMergeAcross(char32_t left, char32_t right) const;
  // The text that the merges work on; see the .cc.
  std::string Normalize(absl::string_view text) const;

  Vocabulary vocabulary_;
  absl::flat_hash_map<absl::string_view, int32_t> id_of_piece_;  // keys point into vocabulary_
  // Ids of the pieces that text can become (normal, user-defined, unused); keys point into
  // vocabulary_.
  absl::flat_hash_map<absl::string_view, int32_t> mergeable_;
  size_t max_mergeable_bytes_ = 0;
  std::array<int32_t, 256> byte_id_;  // id of the piece of each byte; -1 without byte_fallback
  // A trie over the user-defined pieces: (node << 8 | byte) -> node; node 0 is the root.
  absl::flat_hash_map<uint64_t, uint32_t> trie_edges_;
  std::vector<bool> trie_ends_;  // [n_nodes]: a user-defined piece ends at the node
  // Pairs of characters that are neighbours inside some mergeable piece: two ASCII characters at
  // left * 128 + right, others as left << 32 | right.
  std::bitset<size_t{128} * 128> ascii_pairs_;
  absl::flat_hash_set<uint64_t> char_pairs_;
  bool has_unused_ = false;               // some piece has type kUnused
  std::vector<std::string> token_bytes_;  // [vocab_size], see TokenBytes
};

}  // namespace bora

// Text to token ids and back, as SentencePiece's BPE model does it, id for id and byte for byte.
//
// The packaged SentencePiece library carries a protobuf of its own and cannot share a process with
// gRPC, so the merges are done here; its command line tools are the oracle of
// tests/conformance/tokenizer_parity.py. Nothing here needs protobuf. Reading a vocabulary file is
// model/text/tokenizer_model.h.
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

// U+2581, which stands for a space inside pieces.
inline constexpr absl::string_view kSpaceSymbol = "\xE2\x96\x81";

// The values are those of SentencePiece's file format.
enum class PieceType : int32_t {
  kNormal = 1,
  kUnknown = 2,
  kControl = 3,      // <s>, </s>: never found in text, decodes to nothing
  kUserDefined = 4,  // matched in text before the merges, never split or merged
  kUnused = 5,       // takes part in merges, but is split again in the result
  kByte = 6,         // "<0x41>": stands for one byte of an unknown character
};

struct Piece {
  std::string text;  // UTF-8, with kSpaceSymbol for a space
  float score = 0;   // the pair with the highest score is merged first
  PieceType type = PieceType::kNormal;
};

// A vocabulary as data; the index in `pieces` is the token id. The defaults are the file format's.
struct Vocabulary {
  std::vector<Piece> pieces;
  int32_t unk_id = 0;
  int32_t bos_id = -1;  // -1: the vocabulary has none
  int32_t eos_id = -1;
  int32_t pad_id = -1;
  bool byte_fallback = false;            // unknown characters become their bytes' pieces
  bool add_dummy_prefix = true;          // a space in front of every text
  bool remove_extra_whitespaces = true;  // no space at the ends, one between words
  bool escape_whitespaces = true;        // ' ' becomes kSpaceSymbol
  bool treat_whitespace_as_suffix = false;
  std::string unk_surface = " \xE2\x81\x87 ";  // what the unknown id decodes to
};

// Limits of Tokenizer::Create. The largest published vocabularies have 256k pieces. spm_train
// allows 512 characters of at most 4 bytes in a piece; twice that leaves room for user-defined
// ones.
inline constexpr int64_t kMaxVocabularyPieces = 1'000'000;
inline constexpr int64_t kMaxPieceBytes = 4096;

// Immutable after construction; all const members may be called from any number of threads.
class Tokenizer {
 public:
  // INVALID_ARGUMENT names the piece and what is wrong with it: too many or no pieces; a piece that
  // is empty, longer than kMaxPieceBytes, not UTF-8, or there twice; a score that is not finite;
  // not exactly one unknown piece, at unk_id; bos_id, eos_id or pad_id that is neither -1 nor a
  // control piece; byte pieces without byte_fallback, or not all 256 with it;
  // unk_surface that is not UTF-8; treat_whitespace_as_suffix.
  static absl::StatusOr<Tokenizer> Create(Vocabulary vocabulary);

  Tokenizer(Tokenizer&&) = default;
  Tokenizer& operator=(Tokenizer&&) = default;
  // A copy's index would point into the original's pieces.
  Tokenizer(const Tokenizer&) = delete;
  Tokenizer& operator=(const Tokenizer&) = delete;

  // Token ids of `text`, without bos or eos. Any bytes are accepted, up to kMaxTextBytes; each
  // invalid byte counts as U+FFFD. Text never yields a control id, also where SentencePiece would
  // give one (a control piece of a single character): a prompt must not be able to forge it.
  //
  // Cost: O(n log n) for n bytes. Measured with Mistral 7B's vocabulary on one busy 2-core machine:
  // 5 MB/s (1.8 million ids/s) of English, also without its spaces; 2.4 MB/s for the worst found, a
  // single letter 10 million times. That one takes 60 times its bytes in memory, since all of it
  // may merge; English takes 5 times. Callers bound the text first, see MinTokens.
  std::vector<int32_t> Encode(absl::string_view text) const;

  // A lower bound of Encode(text).size() for any text of that many bytes, in O(1): what is over a
  // token limit by this bound can be refused without encoding it. 0 where the vocabulary allows no
  // bound (runs of unknown characters or of spaces that collapse).
  int64_t MinTokens(int64_t text_bytes) const;

  // The text of `ids`, always valid UTF-8. Control pieces give nothing; a run of byte pieces gives
  // its characters, with U+FFFD for each byte that belongs to none; with add_dummy_prefix or
  // remove_extra_whitespaces the leading space is dropped; the unknown id, and any id outside
  // [0, vocab_size), gives the vocabulary's unk_surface.
  std::string Decode(absl::Span<const int32_t> ids) const;

  // Bytes that the token contributes in the middle of a text: for a byte piece that byte, for a
  // control piece none, else its text with spaces. As Decode for an id outside [0, vocab_size). The
  // view lives as long as this tokenizer.
  absl::string_view TokenBytes(int32_t id) const;

  // The piece as the vocabulary has it. CHECKs that 0 <= id < vocab_size.
  absl::string_view PieceText(int32_t id) const;

  // Id of the piece with exactly this text, of any type; nullopt if there is none.
  std::optional<int32_t> FindPiece(absl::string_view piece_text) const;

  int32_t vocab_size() const { return static_cast<int32_t>(vocabulary_.pieces.size()); }
  int32_t unk_id() const { return vocabulary_.unk_id; }
  int32_t bos_id() const { return vocabulary_.bos_id; }  // -1: none
  int32_t eos_id() const { return vocabulary_.eos_id; }  // -1: none
  int32_t pad_id() const { return vocabulary_.pad_id; }  // -1: none

  // An id outside [0, vocab_size) is neither.
  bool IsControl(int32_t id) const { return HasType(id, PieceType::kControl); }
  bool IsByte(int32_t id) const { return HasType(id, PieceType::kByte); }

  // True if Decode drops a space symbol in front of the piece when no text precedes it.
  bool DropsLeadingSpace(int32_t id) const;
  // True if Decode drops one space symbol from each piece until there is text, not just the first.
  bool removes_extra_whitespaces() const { return vocabulary_.remove_extra_whitespaces; }

  // Offsets into the normalised text are 32 bits, and a space takes three bytes there.
  static constexpr int64_t kMaxTextBytes = (int64_t{1} << 30) / 3;

 private:
  class Merger;

  explicit Tokenizer(Vocabulary vocabulary);
  absl::Status BuildIndex();
  absl::Status AddPiece(int32_t id);
  absl::Status CheckSpecialIds() const;
  void AddCharPairs(absl::string_view piece_text);
  void AddUserDefined(absl::string_view piece_text);
  void PrepareDecoding();

  bool IsKnown(int32_t id) const { return id >= 0 && id < vocab_size(); }
  bool HasType(int32_t id, PieceType type) const {
    return IsKnown(id) && vocabulary_.pieces[id].type == type;
  }
  // Bytes of the longest user-defined piece in front of `text`; 0 if there is none.
  size_t MatchUserDefined(absl::string_view text) const;
  // Id of a piece that text can become, or -1.
  int32_t FindMergeable(absl::string_view text) const;
  // False if no merge can join text that ends in `left` to text that starts with `right`.
  bool MayMergeAcross(char32_t left, char32_t right) const;
  std::string Normalize(absl::string_view text) const;

  Vocabulary vocabulary_;
  absl::flat_hash_map<absl::string_view, int32_t> id_of_piece_;  // keys point into vocabulary_
  // Pieces that text can become (normal, user-defined, unused); keys point into vocabulary_.
  absl::flat_hash_map<absl::string_view, int32_t> mergeable_;
  size_t max_mergeable_bytes_ = 0;
  std::array<int32_t, 256> byte_id_;  // -1 without byte_fallback
  // A trie over the user-defined pieces: (node << 8 | byte) -> node; node 0 is the root.
  absl::flat_hash_map<uint64_t, uint32_t> trie_edges_;
  std::vector<bool> trie_ends_;  // [n_nodes]: a piece ends here
  // Pairs of neighbouring characters inside mergeable pieces; ASCII pairs by left * 128 + right,
  // others by left << 32 | right.
  std::bitset<size_t{128} * 128> ascii_pairs_;
  absl::flat_hash_set<uint64_t> char_pairs_;
  bool has_unused_ = false;
  std::vector<std::string> token_bytes_;  // [vocab_size]
};

}  // namespace bora

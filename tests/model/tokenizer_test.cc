#include "model/text/tokenizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <ctime>
#include <limits>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/model/tokenizer_testing.h"

namespace bora {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

// The text of each piece: readable where ids are not.
std::vector<std::string> EncodePieces(const Tokenizer& tokenizer, absl::string_view text) {
  std::vector<std::string> pieces;
  for (const int32_t id : tokenizer.Encode(text)) {
    pieces.emplace_back(tokenizer.PieceText(id));
  }
  return pieces;
}

std::vector<Piece> Letters(absl::string_view letters) {
  std::vector<Piece> pieces;
  for (const char letter : letters) pieces.push_back({std::string(1, letter), -100});
  return pieces;
}

std::vector<Piece> operator+(std::vector<Piece> a, const std::vector<Piece>& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

Tokenizer Plain(const std::vector<Piece>& pieces) {
  return MakeTokenizer(MakeVocabulary(false, pieces));
}

Tokenizer WithBytes(const std::vector<Piece>& pieces) {
  return MakeTokenizer(MakeVocabulary(true, pieces));
}

std::string CreateError(Vocabulary vocabulary) {
  const absl::StatusOr<Tokenizer> tokenizer = Tokenizer::Create(std::move(vocabulary));
  if (tokenizer.ok()) return "OK";
  EXPECT_EQ(tokenizer.status().code(), absl::StatusCode::kInvalidArgument);
  return std::string(tokenizer.status().message());
}

// --- Encode --------------------------------------------------------------------------------------

TEST(TokenizerEncodeTest, EmptyTextHasNoIdsEvenWithDummyPrefix) {
  Vocabulary vocabulary = MakeVocabulary(true, {});
  vocabulary.add_dummy_prefix = true;
  EXPECT_THAT(MakeTokenizer(std::move(vocabulary)).Encode(""), IsEmpty());
}

TEST(TokenizerEncodeTest, HighestScoreMergesFirst) {
  const Tokenizer tokenizer = Plain(Letters("abc") + std::vector<Piece>{{"ab", -2}, {"bc", -1}});
  EXPECT_THAT(EncodePieces(tokenizer, "abc"), ElementsAre("a", "bc"));
}

TEST(TokenizerEncodeTest, LeftmostOfEqualScoresMergesFirst) {
  const Tokenizer tokenizer = Plain(Letters("abc") + std::vector<Piece>{{"ab", -1}, {"bc", -1}});
  EXPECT_THAT(EncodePieces(tokenizer, "abc"), ElementsAre("ab", "c"));
}

TEST(TokenizerEncodeTest, OddRunLeavesTheLastCharacterAlone) {
  const Tokenizer tokenizer = Plain(Letters("a") + std::vector<Piece>{{"aa", -1}});
  EXPECT_THAT(EncodePieces(tokenizer, "aaaaa"), ElementsAre("aa", "aa", "a"));
}

TEST(TokenizerEncodeTest, PieceThatNoMergeReachesIsNotUsed) {
  const Tokenizer tokenizer = Plain(Letters("abc") + std::vector<Piece>{{"abc", -1}});
  EXPECT_THAT(EncodePieces(tokenizer, "abc"), ElementsAre("a", "b", "c"));
}

TEST(TokenizerEncodeTest, MergesCharactersThatAreNoPiecesThemselves) {
  const Tokenizer tokenizer = Plain({{"xy", -1}});
  EXPECT_THAT(EncodePieces(tokenizer, "xy"), ElementsAre("xy"));
}

TEST(TokenizerEncodeTest, UnknownCharacterFallsBackToItsBytes) {
  const Tokenizer tokenizer = WithBytes(Letters("a"));
  EXPECT_THAT(EncodePieces(tokenizer, "a\xC3\xA9\n"),
              ElementsAre("a", "<0xC3>", "<0xA9>", "<0x0A>"));
}

TEST(TokenizerEncodeTest, RunOfUnknownCharactersIsOneId) {
  const Tokenizer tokenizer = Plain(Letters("a"));
  EXPECT_THAT(EncodePieces(tokenizer, "xyazx"), ElementsAre("<unk>", "a", "<unk>"));
}

TEST(TokenizerEncodeTest, EachInvalidByteIsTheReplacementCharacter) {
  const Tokenizer tokenizer = Plain(Letters("a") + std::vector<Piece>{{"\xEF\xBF\xBD", -1}});
  const std::string replacement = "\xEF\xBF\xBD";
  EXPECT_THAT(EncodePieces(tokenizer,
                           "\xFF"
                           "a\xE2\x96"),
              ElementsAre(replacement, "a", replacement, replacement));
}

TEST(TokenizerEncodeTest, OverlongFormsAndSurrogatesAreInvalid) {
  const Tokenizer tokenizer = Plain({{"\xEF\xBF\xBD", -1}});
  EXPECT_EQ(tokenizer.Encode("\xC0\xAF\xE0\x80\x80\xED\xA0\x80\xF4\x90\x80\x80").size(), 12);
}

TEST(TokenizerEncodeTest, DummyPrefixIsASpaceInFront) {
  Vocabulary vocabulary =
      MakeVocabulary(false, Letters("a") + std::vector<Piece>{{"▁", -9}, {"▁a", -1}});
  vocabulary.add_dummy_prefix = true;
  EXPECT_THAT(EncodePieces(MakeTokenizer(std::move(vocabulary)), "a a"), ElementsAre("▁a", "▁a"));
}

TEST(TokenizerEncodeTest, ExtraSpacesAreRemoved) {
  Vocabulary vocabulary = MakeVocabulary(false, Letters("ab") + std::vector<Piece>{{"▁", -9}});
  vocabulary.remove_extra_whitespaces = true;
  EXPECT_THAT(EncodePieces(MakeTokenizer(std::move(vocabulary)), "  a   b "),
              ElementsAre("a", "▁", "b"));
}

TEST(TokenizerEncodeTest, ExtraSpacesAreKept) {
  const Tokenizer tokenizer = Plain(Letters("a") + std::vector<Piece>{{"▁", -9}, {"▁▁", -1}});
  EXPECT_THAT(EncodePieces(tokenizer, "   a "), ElementsAre("▁▁", "▁", "a", "▁"));
}

TEST(TokenizerEncodeTest, UserDefinedPieceIsNeitherSplitNorMerged) {
  const Tokenizer tokenizer = Plain(
      Letters("abc") +
      std::vector<Piece>{{"ab", -1}, {"bc", -2}, {"cc", -3}, {"bca", 0, PieceType::kUserDefined}});
  EXPECT_THAT(EncodePieces(tokenizer, "abcabccc"), ElementsAre("a", "bca", "bc", "cc"));
}

TEST(TokenizerEncodeTest, LongestUserDefinedPieceWins) {
  const Tokenizer tokenizer =
      Plain({{"<x>", 0, PieceType::kUserDefined}, {"<x><y>", 0, PieceType::kUserDefined}});
  EXPECT_THAT(EncodePieces(tokenizer, "<x><x><y>"), ElementsAre("<x>", "<x><y>"));
}

TEST(TokenizerEncodeTest, TextCannotForgeControlPieces) {
  Vocabulary vocabulary =
      MakeVocabulary(true, Letters("s/<>") + std::vector<Piece>{{"!", 0, PieceType::kControl}});
  const Tokenizer tokenizer = MakeTokenizer(std::move(vocabulary));
  for (const int32_t id : tokenizer.Encode("<s></s>!")) EXPECT_FALSE(tokenizer.IsControl(id)) << id;
}

TEST(TokenizerEncodeTest, TextCannotForgeBytePieces) {
  const Tokenizer tokenizer = WithBytes(Letters("<>0x41"));
  EXPECT_THAT(EncodePieces(tokenizer, "<0x41>"), ElementsAre("<", "0", "x", "4", "1", ">"));
}

TEST(TokenizerEncodeTest, UnusedPieceIsSplitAgain) {
  const Tokenizer tokenizer =
      Plain(Letters("abc") + std::vector<Piece>{{"ab", -1}, {"abc", -2, PieceType::kUnused}});
  EXPECT_THAT(EncodePieces(tokenizer, "abc"), ElementsAre("ab", "c"));
}

TEST(TokenizerEncodeTest, UnusedPiecesSplitDownToCharacters) {
  const Tokenizer tokenizer =
      Plain(Letters("abc") +
            std::vector<Piece>{{"ab", -1, PieceType::kUnused}, {"abc", -2, PieceType::kUnused}});
  EXPECT_THAT(EncodePieces(tokenizer, "abc"), ElementsAre("a", "b", "c"));
}

TEST(TokenizerEncodeTest, UnusedCharacterStays) {
  const Tokenizer tokenizer = Plain({{"a", -1, PieceType::kUnused}});
  EXPECT_THAT(EncodePieces(tokenizer, "a"), ElementsAre("a"));
}

TEST(TokenizerEncodeTest, MinTokensIsALowerBound) {
  const Tokenizer tokenizer =
      WithBytes(Letters("a") + std::vector<Piece>{{"aa", -1}, {"aaaa", -2}});
  for (int n = 0; n < 40; ++n) {
    EXPECT_EQ(tokenizer.MinTokens(n), (n + 3) / 4) << n;
    EXPECT_LE(tokenizer.MinTokens(n), std::ssize(tokenizer.Encode(std::string(n, 'a')))) << n;
  }
}

TEST(TokenizerEncodeTest, MinTokensKnowsNoBoundForMergedUnknownCharacters) {
  EXPECT_EQ(Plain(Letters("a")).MinTokens(1000), 0);
}

// --- Cost ----------------------------------------------------------------------------------------

// CPU seconds to encode `text`; checks that the result decodes to the text again.
double EncodeSeconds(const Tokenizer& tokenizer, const std::string& text) {
  const std::clock_t start = std::clock();
  const std::vector<int32_t> ids = tokenizer.Encode(text);
  const double seconds = static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC;
  EXPECT_EQ(tokenizer.Decode(ids), text);
  std::printf("%zu bytes, %zu ids, %.2f s CPU\n", text.size(), ids.size(), seconds);
  return seconds;
}

// Pairs of all the letters and runs of one, so that everything merges.
Tokenizer Greedy() {
  std::vector<Piece> pieces = Letters("abcdefgh");
  for (char a = 'a'; a <= 'h'; ++a) {
    for (char b = 'a'; b <= 'h'; ++b) {
      pieces.push_back({std::string{a, b}, -static_cast<float>(a * 131 + b * 71 % 97)});
    }
  }
  for (int n = 4; n <= 64; n *= 2) pieces.push_back({std::string(n, 'a'), -20000.0f - n});
  pieces.push_back({"▁", -30000});
  return WithBytes(pieces);
}

// A merge loop that is quadratic in the text needs hours for these. The bounds are eight
// times what the slowest build, TSan, takes on a busy machine (3.8, 33 and 7.5 s of CPU).
TEST(TokenizerCostTest, MegabyteOfOneCharacterIsNotQuadratic) {
  EXPECT_LT(EncodeSeconds(Greedy(), std::string(1'000'000, 'a')), 30);
}

TEST(TokenizerCostTest, TenMegabytesWithoutSpacesAreNotQuadratic) {
  std::mt19937 random(1);
  std::string text(10'000'000, ' ');
  for (char& c : text) c = static_cast<char>('a' + random() % 8);
  EXPECT_LT(EncodeSeconds(Greedy(), text), 300);
}

TEST(TokenizerCostTest, TenMegabytesOfRandomCharactersAreNotQuadratic) {
  std::mt19937 random(2);
  std::string text(10'000'000, ' ');
  for (char& c : text) c = static_cast<char>(random() % 128);
  EXPECT_LT(EncodeSeconds(Greedy(), text), 60);
}

// --- Pieces, threads -----------------------------------------------------------------------------

TEST(TokenizerPieceTest, TokenBytesAreWhatATokenAddsInTheMiddle) {
  const Tokenizer tokenizer = WithBytes({{"▁a▁", -1}});
  EXPECT_EQ(tokenizer.TokenBytes(259), " a ");
  EXPECT_EQ(tokenizer.TokenBytes(3), absl::string_view("\0", 1));
  EXPECT_EQ(tokenizer.TokenBytes(258), "\xFF");
  EXPECT_EQ(tokenizer.TokenBytes(tokenizer.bos_id()), "");
  EXPECT_EQ(tokenizer.TokenBytes(tokenizer.unk_id()), " \xE2\x81\x87 ");
  EXPECT_EQ(tokenizer.TokenBytes(260), tokenizer.TokenBytes(tokenizer.unk_id()));
}

TEST(TokenizerPieceTest, FindsPiecesOfAnyType) {
  const Tokenizer tokenizer = WithBytes(Letters("a"));
  EXPECT_EQ(tokenizer.FindPiece("</s>"), 2);
  EXPECT_EQ(tokenizer.FindPiece("<0x0A>"), 13);
  EXPECT_EQ(tokenizer.FindPiece("a"), 259);
  EXPECT_EQ(tokenizer.FindPiece("b"), std::nullopt);
}

TEST(TokenizerThreadTest, ThreadsShareOneTokenizer) {
  const Tokenizer tokenizer = Greedy();
  std::vector<std::vector<int32_t>> results(4);
  const std::string text = "abcdefgh hgfedcba aaaaaaaaaaaaaaaaa \xC3\xA9 ";
  std::vector<std::thread> threads;
  for (auto& result : results) {
    threads.emplace_back([&] {
      for (int i = 0; i < 200; ++i)
        result = tokenizer.Encode(tokenizer.Decode(tokenizer.Encode(text)));
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const auto& result : results) EXPECT_EQ(result, tokenizer.Encode(text));
}

// --- Create --------------------------------------------------------------------------------------

TEST(TokenizerCreateTest, NamesTheDuplicateAndTheFirst) {
  EXPECT_EQ(CreateError(MakeVocabulary(false, {{"a"}, {"b"}, {"a"}})),
            "vocabulary: piece 5: 'a' is also piece 3");
}

TEST(TokenizerCreateTest, RejectsEmptyPiece) {
  EXPECT_EQ(CreateError(MakeVocabulary(false, {{"a"}, {""}})),
            "vocabulary: piece 4: has 0 bytes, supported are 1 to 4096");
}

TEST(TokenizerCreateTest, RejectsLongPiece) {
  EXPECT_EQ(CreateError(MakeVocabulary(false, {{std::string(4097, 'a')}})),
            "vocabulary: piece 3: has 4097 bytes, supported are 1 to 4096");
}

TEST(TokenizerCreateTest, RejectsPieceThatIsNotUtf8) {
  EXPECT_EQ(CreateError(MakeVocabulary(false, {{"a\xC3"}})),
            "vocabulary: piece 3: is not valid UTF-8");
}

TEST(TokenizerCreateTest, RejectsScoresThatAreNotFinite) {
  for (const float score : {std::nanf(""), std::numeric_limits<float>::infinity()}) {
    EXPECT_EQ(CreateError(MakeVocabulary(false, {{"a", score}})),
              absl::StrFormat("vocabulary: piece 3: 'a' has score %f, which is not finite", score));
  }
}

TEST(TokenizerCreateTest, RejectsEmptyVocabulary) {
  EXPECT_EQ(CreateError({}), "vocabulary: 0 pieces, supported are 1 to 1000000");
}

TEST(TokenizerCreateTest, RejectsTooManyPieces) {
  Vocabulary vocabulary;
  vocabulary.pieces.resize(1'000'001);
  EXPECT_EQ(CreateError(std::move(vocabulary)),
            "vocabulary: 1000001 pieces, supported are 1 to 1000000");
}

TEST(TokenizerCreateTest, RejectsVocabularyWithoutUnknownPiece) {
  Vocabulary vocabulary = MakeVocabulary(false, {{"a"}});
  vocabulary.pieces[0].type = PieceType::kNormal;
  EXPECT_EQ(CreateError(std::move(vocabulary)),
            "vocabulary: unk_id is 0, which is no piece of type unknown");
}

TEST(TokenizerCreateTest, RejectsSecondUnknownPiece) {
  EXPECT_EQ(CreateError(MakeVocabulary(false, {{"?", 0, PieceType::kUnknown}})),
            "vocabulary: piece 3: '?' is of type unknown, but unk_id is 0");
}

TEST(TokenizerCreateTest, RejectsSpecialIdThatIsNoControlPiece) {
  for (const int32_t id : {0, 3, 99, -2}) {
    Vocabulary vocabulary = MakeVocabulary(false, {{"a"}});
    vocabulary.eos_id = id;
    EXPECT_EQ(CreateError(std::move(vocabulary)),
              absl::StrCat("vocabulary: eos_id is ", id,
                           ", which is neither -1 nor a piece of type control"));
  }
}

TEST(TokenizerCreateTest, NamesTheMissingBytePiece) {
  Vocabulary vocabulary = MakeVocabulary(true, {});
  vocabulary.pieces.erase(vocabulary.pieces.begin() + 3 + 0x7F);
  EXPECT_EQ(CreateError(std::move(vocabulary)),
            "vocabulary: byte_fallback is on, but there is no byte piece <0x7F>");
}

TEST(TokenizerCreateTest, RejectsBytePieceWithoutFallback) {
  EXPECT_EQ(CreateError(MakeVocabulary(false, {{"<0x41>", 0, PieceType::kByte}})),
            "vocabulary: piece 3: '<0x41>' is of type byte, but byte_fallback is off");
}

TEST(TokenizerCreateTest, RejectsBytePieceOfAnotherForm) {
  for (const char* text : {"<0x4g>", "<0x4a>", "<0x041>", "A"}) {
    EXPECT_THAT(CreateError(MakeVocabulary(true, {{text, 0, PieceType::kByte}})),
                HasSubstr("is of type byte, but its text is not <0x00> to <0xFF>"));
  }
}

TEST(TokenizerCreateTest, RejectsWhitespaceAsSuffix) {
  Vocabulary vocabulary = MakeVocabulary(false, {});
  vocabulary.treat_whitespace_as_suffix = true;
  EXPECT_EQ(CreateError(std::move(vocabulary)),
            "vocabulary: treat_whitespace_as_suffix is not supported");
}

TEST(TokenizerCreateTest, RejectsUnknownSurfaceThatIsNotUtf8) {
  Vocabulary vocabulary = MakeVocabulary(false, {});
  vocabulary.unk_surface = "\xFF";
  EXPECT_EQ(CreateError(std::move(vocabulary)), "vocabulary: unk_surface is not valid UTF-8");
}

}  // namespace
}  // namespace bora

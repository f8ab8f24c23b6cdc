// Decode and the incremental detokenizer, against a plain restatement of SentencePiece's rule.
#include <gtest/gtest.h>

#include <random>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "base/utf8.h"
#include "model/text/detokenizer.h"
#include "model/text/tokenizer.h"
#include "tests/model/tokenizer_testing.h"

namespace bora {
namespace {

constexpr int32_t kFirstByteId = 3;
int32_t ByteId(int byte) { return kFirstByteId + byte; }

constexpr int32_t kSpaceId = 259;
constexpr int32_t kWordId = 261;

Tokenizer MakeDecoder(bool add_dummy_prefix, bool remove_extra_whitespaces) {
  Vocabulary vocabulary = MakeVocabulary(true, {{"▁", -1},
                                                {"▁▁", -2},
                                                {"▁word", -3},
                                                {"a", -4},
                                                {"é", -5},
                                                {"😀", 0, PieceType::kUserDefined},
                                                {"b▁c", -6},
                                                {" d", -7},
                                                {"e", -8, PieceType::kUnused}});
  vocabulary.add_dummy_prefix = add_dummy_prefix;
  vocabulary.remove_extra_whitespaces = remove_extra_whitespaces;
  return MakeTokenizer(std::move(vocabulary));
}

// Characters of a run of bytes, U+FFFD for each byte that belongs to none.
std::string ReplaceInvalid(absl::string_view bytes) {
  std::string text;
  while (!bytes.empty()) {
    const size_t n_bytes = Utf8CharBytes(bytes);
    text += std::string(n_bytes > 0 ? bytes.substr(0, n_bytes) : kUtf8Replacement);
    bytes.remove_prefix(n_bytes > 0 ? n_bytes : 1);
  }
  return text;
}

// Decode over whole runs of bytes, with SentencePiece's two flags: an oracle that shares no state
// machine with the detokenizer.
std::string ReferenceDecode(const Tokenizer& tokenizer, bool dummy, bool remove,
                            absl::Span<const int32_t> ids) {
  std::string text;
  bool at_start = true;
  bool dropped = false;
  for (size_t i = 0; i < ids.size();) {
    std::string run;
    for (; i < ids.size() && tokenizer.IsByte(ids[i]); ++i)
      run += std::string(tokenizer.TokenBytes(ids[i]));
    text += ReplaceInvalid(run);
    if (i == ids.size()) break;
    if (dropped || !text.empty()) at_start = false;
    const int32_t id = ids[i++];
    absl::string_view bytes = tokenizer.TokenBytes(id);
    const bool has_symbol = id > 2 && id < tokenizer.vocab_size() &&
                            absl::StartsWith(tokenizer.PieceText(id), kSpaceSymbol);
    dropped = at_start && (dummy || remove) && has_symbol;
    if (dropped) bytes.remove_prefix(1);
    if (remove) dropped = false;
    text += std::string(bytes);
  }
  return text;
}

std::vector<int32_t> RandomIds(std::mt19937* random, int32_t vocab_size) {
  std::vector<int32_t> ids((*random)() % 20);
  for (int32_t& id : ids) {
    switch ((*random)() % 6) {
      case 0:  // special ids, and one outside on each side
        id = static_cast<int32_t>((*random)() % 3);
        if ((*random)() % 8 == 0) id = (*random)() % 2 == 0 ? -1 : vocab_size;
        break;
      case 1:  // lead bytes
        id = ByteId(0xC0 + (*random)() % 64);
        break;
      case 2:  // trail bytes
      case 3:
        id = ByteId(0x80 + (*random)() % 64);
        break;
      default:
        id = ByteId(256) + static_cast<int32_t>((*random)() % (vocab_size - 259));
    }
  }
  return ids;
}

class DetokenizerPropertyTest : public testing::TestWithParam<std::tuple<bool, bool>> {};

TEST_P(DetokenizerPropertyTest, PartsAreTheWholeForRandomIds) {
  const auto [dummy, remove] = GetParam();
  const Tokenizer tokenizer = MakeDecoder(dummy, remove);
  constexpr uint32_t kSeed = 20240301;
  std::printf("seed %u\n", kSeed);
  std::mt19937 random(kSeed);
  for (int round = 0; round < 10'000; ++round) {
    const std::vector<int32_t> ids = RandomIds(&random, tokenizer.vocab_size());
    const std::string expected = ReferenceDecode(tokenizer, dummy, remove, ids);
    ASSERT_EQ(tokenizer.Decode(ids), expected) << testing::PrintToString(ids);
    Detokenizer detokenizer(&tokenizer);
    std::string text;
    for (const int32_t id : ids) {
      const std::string part = detokenizer.Append(id);
      ASSERT_TRUE(IsValidUtf8(part)) << testing::PrintToString(ids);
      text += part;
    }
    ASSERT_EQ(text + detokenizer.Finish(), expected) << testing::PrintToString(ids);
  }
}

TEST_P(DetokenizerPropertyTest, PrimedPartsContinueThePrompt) {
  const auto [dummy, remove] = GetParam();
  const Tokenizer tokenizer = MakeDecoder(dummy, remove);
  std::mt19937 random(20240302);
  int n_checked = 0;
  for (int round = 0; round < 10'000; ++round) {
    const std::vector<int32_t> ids = RandomIds(&random, tokenizer.vocab_size());
    const absl::Span<const int32_t> all = ids;
    const size_t n_prompt = random() % (ids.size() + 1);
    if (n_prompt > 0 && tokenizer.IsByte(ids[n_prompt - 1])) continue;
    ++n_checked;
    Detokenizer detokenizer(&tokenizer);
    detokenizer.Prime(all.first(n_prompt));
    std::string text = tokenizer.Decode(all.first(n_prompt));
    for (const int32_t id : all.subspan(n_prompt)) text += detokenizer.Append(id);
    text += detokenizer.Finish();
    ASSERT_EQ(text, tokenizer.Decode(all)) << testing::PrintToString(ids) << " prompt " << n_prompt;
  }
  EXPECT_GT(n_checked, 3000);
}

INSTANTIATE_TEST_SUITE_P(Whitespace, DetokenizerPropertyTest,
                         testing::Combine(testing::Bool(), testing::Bool()));

TEST(DetokenizerTest, HoldsACharacterBackUntilItIsWhole) {
  const Tokenizer tokenizer = MakeDecoder(false, false);
  Detokenizer detokenizer(&tokenizer);
  EXPECT_EQ(detokenizer.Append(ByteId(0xF0)), "");
  EXPECT_EQ(detokenizer.Append(ByteId(0x9F)), "");
  EXPECT_EQ(detokenizer.Append(ByteId(0x98)), "");
  EXPECT_EQ(detokenizer.Append(ByteId(0x80)), "😀");
}

TEST(DetokenizerTest, InvalidByteIsGivenOutAtOnce) {
  const Tokenizer tokenizer = MakeDecoder(false, false);
  Detokenizer detokenizer(&tokenizer);
  EXPECT_EQ(detokenizer.Append(ByteId(0x80)), "\uFFFD");
  EXPECT_EQ(detokenizer.Append(ByteId(0xE2)), "");
  EXPECT_EQ(detokenizer.Append(ByteId(0x41)),
            "\uFFFD"
            "A");
}

TEST(DetokenizerTest, FinishFlushesEachByteOfACutCharacter) {
  const Tokenizer tokenizer = MakeDecoder(false, false);
  Detokenizer detokenizer(&tokenizer);
  EXPECT_EQ(detokenizer.Append(ByteId(0xE2)), "");
  EXPECT_EQ(detokenizer.Append(ByteId(0x96)), "");
  EXPECT_EQ(detokenizer.Finish(), "\uFFFD\uFFFD");
}

TEST(DetokenizerTest, ControlPieceEndsACharacter) {
  const Tokenizer tokenizer = MakeDecoder(false, false);
  EXPECT_EQ(tokenizer.Decode({ByteId(0xC3), 1, ByteId(0xA9)}), "\uFFFD\uFFFD");
}

TEST(DetokenizerTest, DropsTheDummyPrefixOnce) {
  EXPECT_EQ(MakeDecoder(true, false).Decode({1, kSpaceId, kWordId}), " word");
}

TEST(DetokenizerTest, DropsSpacesUntilThereIsTextWhereExtraOnesAreRemoved) {
  EXPECT_EQ(MakeDecoder(true, true).Decode({1, kSpaceId, kWordId, kWordId}), "word word");
}

TEST(DetokenizerTest, KeepsLeadingSpaceWithoutDummyPrefix) {
  EXPECT_EQ(MakeDecoder(false, false).Decode({1, kWordId}), " word");
}

TEST(DetokenizerTest, KeepsTheSpaceAfterAPromptWithText) {
  const Tokenizer tokenizer = MakeDecoder(true, false);
  Detokenizer detokenizer(&tokenizer);
  detokenizer.Prime({1, kWordId});
  EXPECT_EQ(detokenizer.Append(kWordId), " word");
}

TEST(DetokenizerTest, DropsTheSpaceAfterBosAlone) {
  const Tokenizer tokenizer = MakeDecoder(true, false);
  Detokenizer detokenizer(&tokenizer);
  detokenizer.Prime({1});
  EXPECT_EQ(detokenizer.Append(kWordId), "word");
}

TEST(DetokenizerTest, CharacterBegunByThePromptBelongsToTheOutput) {
  const Tokenizer tokenizer = MakeDecoder(false, false);
  Detokenizer detokenizer(&tokenizer);
  detokenizer.Prime({kWordId, ByteId(0xC3)});
  EXPECT_EQ(detokenizer.Append(ByteId(0xA9)), "é");
}

TEST(DetokenizerTest, UnknownAndForeignIdsGiveTheUnknownSurface) {
  EXPECT_EQ(MakeDecoder(true, true).Decode({0, -5, 100000}), " \u2047  \u2047  \u2047 ");
}

TEST(DetokenizerDeathTest, AppendAfterFinishIsAMistake) {
  const Tokenizer tokenizer = MakeDecoder(false, false);
  Detokenizer detokenizer(&tokenizer);
  detokenizer.Finish();
  EXPECT_DEATH(detokenizer.Append(1), "Append after Finish");
}

}  // namespace
}  // namespace bora

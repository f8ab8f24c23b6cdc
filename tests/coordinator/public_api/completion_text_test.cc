#include "coordinator/engine/completion_text.h"

#include <algorithm>
#include <cstdint>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "base/utf8.h"
#include "gtest/gtest.h"
#include "tests/coordinator/public_api/test_vocabulary.h"

namespace bora {
namespace {

struct Outcome {
  std::string text;
  std::optional<std::string> stop_sequence;
  size_t n_tokens = 0;  // taken until the end

  bool operator==(const Outcome&) const = default;
};

struct Case {
  std::vector<int32_t> tokens;
  std::vector<std::string> stop;
  bool include_stop = false;
  int32_t min_tokens = 0;
};

const Tokenizer& TestTokenizer() {
  static const Tokenizer* const tokenizer = new Tokenizer(MakeTestTokenizer());
  return *tokenizer;
}

// The definition, word by word: all text at once, every end position, every stop sequence.
Outcome Naive(const Case& c) {
  Detokenizer detokenizer(&TestTokenizer());
  const std::vector<int32_t> prompt = {1};
  detokenizer.Prime(prompt);
  std::string text;
  size_t search_begin = 0;
  std::vector<size_t> n_bytes_after;  // of each token
  for (size_t i = 0; i < c.tokens.size(); ++i) {
    text += detokenizer.Append(c.tokens[i]);
    n_bytes_after.push_back(text.size());
    if (static_cast<int32_t>(i) + 1 == c.min_tokens) search_begin = text.size();
  }
  text += detokenizer.Finish();
  const bool searched = static_cast<int32_t>(c.tokens.size()) >= c.min_tokens;
  for (size_t end = search_begin + 1; searched && end <= text.size(); ++end) {
    const std::string* best = nullptr;
    for (const std::string& stop : c.stop) {
      if (end - search_begin < stop.size()) continue;
      if (text.compare(end - stop.size(), stop.size(), stop) != 0) continue;
      if (best == nullptr || stop.size() > best->size()) best = &stop;
    }
    if (best == nullptr) continue;
    Outcome outcome;
    outcome.text = text.substr(0, c.include_stop ? end : end - best->size());
    const size_t n_before =
        std::lower_bound(n_bytes_after.begin(), n_bytes_after.end(), end) - n_bytes_after.begin();
    outcome.n_tokens = std::min(n_before + 1, c.tokens.size());
    // In the tail that Finish gives, the text is cut but no match is reported.
    if (n_before < c.tokens.size()) outcome.stop_sequence = *best;
    return outcome;
  }
  return {text, std::nullopt, c.tokens.size()};
}

Outcome Incremental(const Case& c) {
  const std::vector<int32_t> prompt = {1};
  CompletionText completion(TestTokenizer(), prompt, c.stop, c.include_stop, c.min_tokens);
  Outcome outcome;
  for (const int32_t token : c.tokens) {
    CompletionText::Piece piece = completion.Append(token);
    EXPECT_TRUE(IsValidUtf8(piece.delta));
    outcome.text += piece.delta;
    ++outcome.n_tokens;
    outcome.stop_sequence = piece.stop_sequence_matched;
    if (piece.stop_sequence_matched.has_value()) break;
  }
  const std::string tail = completion.Finish();
  EXPECT_TRUE(IsValidUtf8(tail));
  outcome.text += tail;
  return outcome;
}

std::vector<int32_t> Tokens(absl::string_view text) { return TestTokenizer().Encode(text); }

// Ids of the text without the dummy space in front, one byte or piece each.
std::vector<int32_t> Bytes(absl::string_view text) {
  std::vector<int32_t> ids;
  for (const char c : text) ids.push_back(kFirstByteId + static_cast<uint8_t>(c));
  return ids;
}

class RandomCases {
 public:
  explicit RandomCases(uint32_t seed) : random_(seed) {}

  Case Next() {
    Case c;
    const int n_tokens = Below(40);
    for (int i = 0; i < n_tokens; ++i) c.tokens.push_back(Token());
    const int n_stop = Below(5);
    for (int i = 0; i < n_stop; ++i) c.stop.push_back(Stop());
    // Prefixes and extensions of each other.
    if (n_stop > 0 && Below(2) == 0) c.stop.push_back(c.stop[0] + "a");
    if (n_stop > 0 && Below(3) == 0) c.stop.push_back(c.stop[0] + c.stop[0]);
    c.include_stop = Below(2) == 0;
    c.min_tokens = Below(3) == 0 ? Below(12) : 0;
    return c;
  }

 private:
  int Below(int n) { return static_cast<int>(random_() % n); }

  int32_t Token() {
    const int32_t n_text_ids = TestTokenizer().vocab_size() - kFirstTextId;
    switch (Below(8)) {
      case 0:  // the bytes of é, 日 and their neighbours, in any order
        return kFirstByteId + std::vector<int>{0xC3, 0xA9, 0xE6, 0x97, 0xA5, 0xFF, 'a'}[Below(7)];
      case 1:
        return Below(3);  // unknown and control pieces
      default:
        return kFirstTextId + Below(n_text_ids);
    }
  }

  std::string Stop() {
    static const std::vector<std::string> kParts = {
        "a", "b", "c", "\xC3\xA9", "\xE6\x97\xA5", "\xF0\x9F\x98\x80", " ", "\xEF\xBF\xBD"};
    std::string stop;
    const int n_parts = 1 + Below(4);
    for (int i = 0; i < n_parts; ++i) stop += kParts[Below(Below(2) == 0 ? 2 : 8)];
    return stop;
  }

  std::mt19937 random_;
};

TEST(CompletionTextTest, EqualsWholeTextDefinitionOnRandomTokens) {
  constexpr uint32_t kSeed = 20;
  SCOPED_TRACE(testing::Message() << "seed " << kSeed);
  RandomCases cases(kSeed);
  int n_stopped = 0;
  for (int i = 0; i < 30000; ++i) {
    const Case c = cases.Next();
    const Outcome expected = Naive(c);
    const Outcome actual = Incremental(c);
    ASSERT_EQ(actual, expected) << "case " << i << ": \"" << actual.text << "\" instead of \""
                                << expected.text << "\"";
    n_stopped += expected.stop_sequence.has_value() ? 1 : 0;
  }
  // Both outcomes must be common for this to mean anything.
  EXPECT_GT(n_stopped, 5000);
  EXPECT_LT(n_stopped, 25000);
}

TEST(CompletionTextTest, HoldsBackNoMoreThanTheLongestPossibleBeginning) {
  RandomCases cases(21);
  for (int i = 0; i < 3000; ++i) {
    const Case c = cases.Next();
    const std::vector<int32_t> prompt = {1};
    CompletionText completion(TestTokenizer(), prompt, c.stop, c.include_stop, 0);
    Detokenizer detokenizer(&TestTokenizer());
    detokenizer.Prime(prompt);
    std::string certain, given;
    for (const int32_t token : c.tokens) {
      certain += detokenizer.Append(token);
      const CompletionText::Piece piece = completion.Append(token);
      if (piece.stop_sequence_matched.has_value()) break;
      given += piece.delta;
      size_t n_held = 0;
      for (const std::string& stop : c.stop) {
        for (size_t n = 1; n < stop.size() && n <= certain.size(); ++n) {
          if (certain.compare(certain.size() - n, n, stop, 0, n) == 0) n_held = std::max(n_held, n);
        }
      }
      ASSERT_EQ(given, certain.substr(0, certain.size() - n_held)) << "case " << i;
    }
  }
}

TEST(CompletionTextTest, FirstToBeCompleteWinsOverFirstToBegin) {
  EXPECT_EQ(Incremental({Bytes("xabcd"), {"abcd", "bc"}}).text, "xa");
}

TEST(CompletionTextTest, LongestWinsAmongThoseCompleteTogether) {
  const Outcome outcome = Incremental({Bytes("xabc"), {"c", "bc", "abc"}});
  EXPECT_EQ(outcome.text, "x");
  EXPECT_EQ(outcome.stop_sequence, "abc");
}

TEST(CompletionTextTest, TextBehindMatchInSameTokenIsDropped) {
  // "aba" is one piece.
  EXPECT_EQ(Incremental({{kFirstTextId + 7}, {"b"}, /*include_stop=*/true}).text, "ab");
}

TEST(CompletionTextTest, FlushesHeldTextAtOtherEnd) {
  EXPECT_EQ(Incremental({Bytes("xab"), {"abc"}}).text, "xab");
}

TEST(CompletionTextTest, StopSequenceAcrossMinTokensBoundaryDoesNotCount) {
  EXPECT_EQ(Incremental({Bytes("abab"), {"ab"}, false, /*min_tokens=*/1}).text, "ab");
}

TEST(CompletionTextTest, IncompleteCharacterBecomesReplacementAtEnd) {
  EXPECT_EQ(Incremental({Bytes("a\xE6\x97"), {}}).text, "a\xEF\xBF\xBD\xEF\xBF\xBD");
}

TEST(CompletionTextTest, KeepsSpaceBetweenPromptAndCompletion) {
  const std::vector<int32_t> prompt = Tokens("a");
  CompletionText completion(TestTokenizer(), prompt, {}, false, 0);
  EXPECT_EQ(completion.Append(kFirstTextId + 10).delta, " a");
}

}  // namespace
}  // namespace bora

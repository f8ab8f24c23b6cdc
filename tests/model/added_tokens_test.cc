// Tokens that a fine-tune has added: which files name them, and what they are in the vocabulary.
#include "model/text/added_tokens.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <utility>

#include "tests/model/model_test_util.h"
#include "tests/model/tokenizer_testing.h"

namespace bora {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

constexpr int32_t kNPieces = 5;

Vocabulary SmallVocabulary() {
  return MakeVocabulary(/*byte_fallback=*/false, {{"a", -1}, {"b", -2}});
}

TEST(AddedTokensTest, AreReadFromEitherFileAndBoth) {
  const TempDir dir;
  const auto nothing = ReadAddedTokens(dir.path());
  ASSERT_TRUE(nothing.ok()) << nothing.status();
  EXPECT_THAT(*nothing, IsEmpty());
  WriteFile(dir.File("added_tokens.json"), R"({"<|im_end|>": 6, "<|im_start|>": 5, "<s>": 1})");
  const AddedTokens chat_ml = {{1, "<s>"}, {5, "<|im_start|>"}, {6, "<|im_end|>"}};
  EXPECT_EQ(*ReadAddedTokens(dir.path()), chat_ml);
  WriteFile(dir.File("tokenizer_config.json"), R"({"chat_template": "x", "added_tokens_decoder":
      {"6": {"content": "<|im_end|>", "special": true}, "7": {"content": "<pad>"}}})");
  AddedTokens both = chat_ml;
  both[7] = "<pad>";
  EXPECT_EQ(*ReadAddedTokens(dir.path()), both);
}

TEST(AddedTokensTest, WrongFilesAreNamed) {
  for (const auto& [name, text, message] :
       {std::tuple("added_tokens.json", "[]", "must be a JSON object"),
        std::tuple("added_tokens.json", R"({"x": "5"})", "\"x\" has no integer id"),
        std::tuple("added_tokens.json", R"({"x": -1})", "\"x\" has the id -1"),
        std::tuple("added_tokens.json", R"({"x": 5, "y": 5})", "id 5 is \"y\" here and \"x\""),
        std::tuple("added_tokens.json", "{", "not valid JSON"),
        std::tuple("tokenizer_config.json", R"({"added_tokens_decoder": {"5": 1}})",
                   "entry \"5\" is not an id with a content"),
        std::tuple("tokenizer_config.json", R"({"added_tokens_decoder": {"a": {"content": "x"}}})",
                   "entry \"a\" is not an id with a content")}) {
    const TempDir dir;
    WriteFile(dir.File(name), text);
    const auto added = ReadAddedTokens(dir.path());
    EXPECT_EQ(added.status().code(), absl::StatusCode::kInvalidArgument) << text;
    EXPECT_THAT(std::string(added.status().message()), HasSubstr(dir.File(name) + ": "));
    EXPECT_THAT(std::string(added.status().message()), HasSubstr(message));
  }
}

TEST(AddedTokensTest, HaveNoTextAndAreNotFoundInText) {
  Vocabulary vocabulary = SmallVocabulary();
  AppendAddedTokens({{1, "<s>"}, {5, "<|im_start|>"}, {6, "<|im_end|>"}}, {2, 6}, 64, &vocabulary);
  auto tokenizer = Tokenizer::Create(std::move(vocabulary));
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_EQ(tokenizer->vocab_size(), 7);
  EXPECT_EQ(tokenizer->PieceText(6), "<|im_end|>");
  EXPECT_TRUE(tokenizer->IsControl(5));
  EXPECT_EQ(tokenizer->TokenBytes(6), "");
  EXPECT_EQ(tokenizer->Decode({3, 5, 4, 6}), tokenizer->Decode({3, 4}));
  EXPECT_THAT(tokenizer->Encode("<|im_end|>"), Not(::testing::Contains(6)));
}

// An end-of-sequence id without a name must be drawable, or the model would never end.
TEST(AddedTokensTest, EndsOfSequenceAreThereWithoutAName) {
  Vocabulary vocabulary = SmallVocabulary();
  AppendAddedTokens({}, {2, 6}, 64, &vocabulary);
  EXPECT_EQ(vocabulary.pieces.size(), 7u);
  EXPECT_TRUE(Tokenizer::Create(std::move(vocabulary)).ok());
}

TEST(AddedTokensTest, IdsBeyondTheModelAreLeftOut) {
  Vocabulary vocabulary = SmallVocabulary();
  AppendAddedTokens({{kNPieces, "<pad>"}, {kNPieces + 1, "<x>"}}, {}, kNPieces + 1, &vocabulary);
  EXPECT_EQ(vocabulary.pieces.size(), static_cast<size_t>(kNPieces + 1));
  AppendAddedTokens({}, {}, 64, &vocabulary);
  EXPECT_EQ(vocabulary.pieces.size(), static_cast<size_t>(kNPieces + 1));
}

// The name of an added token may be a piece's text, or empty, or another's.
TEST(AddedTokensTest, TextsThatCannotBeNamesAreReplaced) {
  Vocabulary vocabulary = SmallVocabulary();
  AppendAddedTokens({{5, "a"}, {6, ""}, {7, "<x>"}, {8, "<x>"}}, {}, 64, &vocabulary);
  auto tokenizer = Tokenizer::Create(std::move(vocabulary));
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_EQ(tokenizer->vocab_size(), 9);
  EXPECT_EQ(tokenizer->FindPiece("a"), 3);
}

}  // namespace
}  // namespace bora

#include "model/text/tokenizer_model.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>

#include "absl/strings/str_cat.h"
#include "tests/model/tokenizer_testing.h"

namespace bora {
namespace {

using ::testing::HasSubstr;

std::string ParseError(const std::string& bytes) {
  const absl::StatusOr<Vocabulary> vocabulary = ParseSentencePieceModel(bytes);
  if (vocabulary.ok()) return "OK";
  EXPECT_EQ(vocabulary.status().code(), absl::StatusCode::kInvalidArgument);
  return std::string(vocabulary.status().message());
}

// A trainer_spec that says BPE, for messages whose fault lies elsewhere.
const std::string kBpe = WireBytes(2, WireNumber(3, 2));

TEST(TokenizerModelTest, ReadsWhatWasWritten) {
  Vocabulary written = MakeVocabulary(true, {{"▁a", -1.5f}, {"b", -2, PieceType::kUserDefined}});
  written.unk_surface = "?";
  written.add_dummy_prefix = true;
  written.escape_whitespaces = false;
  const absl::StatusOr<Vocabulary> read = ParseSentencePieceModel(SerializeModel(written));
  ASSERT_TRUE(read.ok()) << read.status();
  ASSERT_EQ(read->pieces.size(), written.pieces.size());
  for (size_t i = 0; i < written.pieces.size(); ++i) {
    EXPECT_EQ(read->pieces[i].text, written.pieces[i].text);
    EXPECT_EQ(read->pieces[i].score, written.pieces[i].score);
    EXPECT_EQ(read->pieces[i].type, written.pieces[i].type);
  }
  EXPECT_EQ(read->unk_id, 0);
  EXPECT_EQ(read->bos_id, 1);
  EXPECT_EQ(read->eos_id, 2);
  EXPECT_EQ(read->pad_id, -1);
  EXPECT_EQ(read->unk_surface, "?");
  EXPECT_TRUE(read->byte_fallback);
  EXPECT_TRUE(read->add_dummy_prefix);
  EXPECT_FALSE(read->remove_extra_whitespaces);
  EXPECT_FALSE(read->escape_whitespaces);
}

TEST(TokenizerModelTest, AbsentFieldsHaveTheFormatsDefaults) {
  const absl::StatusOr<Vocabulary> read =
      ParseSentencePieceModel(WireBytes(1, WireBytes(1, "a")) + kBpe);
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(read->pieces[0].type, PieceType::kNormal);
  EXPECT_EQ(read->pieces[0].score, 0);
  EXPECT_EQ(read->unk_id, -1);
  EXPECT_FALSE(read->byte_fallback);
  EXPECT_TRUE(read->add_dummy_prefix);
  EXPECT_TRUE(read->remove_extra_whitespaces);
  EXPECT_TRUE(read->escape_whitespaces);
}

TEST(TokenizerModelTest, SpecialPiecesAreFoundByTheirConfiguredNames) {
  const std::string spec = WireBytes(
      2, WireNumber(3, 2) + WireBytes(46, "[B]") + WireBytes(47, "[E]") + WireBytes(48, "[P]"));
  std::string bytes = spec;
  for (const char* name : {"[P]", "[E]", "[B]"})
    bytes += SerializePiece({name, 0, PieceType::kControl});
  const absl::StatusOr<Vocabulary> read = ParseSentencePieceModel(bytes);
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(read->pad_id, 0);
  EXPECT_EQ(read->eos_id, 1);
  EXPECT_EQ(read->bos_id, 2);
}

TEST(TokenizerModelTest, SpecialNameOfANormalPieceIsNoSpecialId) {
  const absl::StatusOr<Vocabulary> read =
      ParseSentencePieceModel(kBpe + SerializePiece({"<s>", 0}));
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(read->bos_id, -1);
}

TEST(TokenizerModelTest, SkipsFieldsItDoesNotKnow) {
  const std::string fixed64 = WireVarint(200 << 3 | 1) + std::string(8, '\7');
  EXPECT_EQ(ParseError(kBpe + fixed64 + WireNumber(201, ~uint64_t{0}) + WireFloat(202, 1) +
                       WireBytes(4, "\x08")),
            "OK");
}

TEST(TokenizerModelTest, EveryTruncationIsAnErrorOrAShorterMessage) {
  const std::string bytes = SerializeModel(MakeVocabulary(true, {{"a", -1}}));
  int n_ok = 0;
  for (size_t n_bytes = 0; n_bytes < bytes.size(); ++n_bytes)
    n_ok += ParseError(bytes.substr(0, n_bytes)) == "OK";
  // Only between trainer_spec, which says BPE, and the normalizer_spec behind it.
  EXPECT_EQ(n_ok, 1);
}

TEST(TokenizerModelTest, RejectsOtherModelTypes) {
  EXPECT_EQ(ParseError(WireBytes(2, WireNumber(3, 1))),
            "tokenizer model: model type is UNIGRAM, supported is BPE");
  EXPECT_EQ(ParseError(WireBytes(2, WireNumber(3, 9))),
            "tokenizer model: model type is number 9, supported is BPE");
  EXPECT_EQ(ParseError(""), "tokenizer model: model type is UNIGRAM, supported is BPE");
}

TEST(TokenizerModelTest, RejectsCharacterMaps) {
  for (const auto& [field, name] :
       {std::pair(3, "normalizer_spec"), std::pair(5, "denormalizer_spec")}) {
    EXPECT_THAT(ParseError(kBpe + WireBytes(field, WireBytes(2, "12345"))),
                HasSubstr(absl::StrCat(name, ": has a character map of 5 bytes")));
    EXPECT_EQ(ParseError(kBpe + WireBytes(field, WireBytes(2, ""))), "OK");
  }
}

TEST(TokenizerModelTest, NamesThePieceWithAnUnknownType) {
  EXPECT_EQ(ParseError(kBpe + SerializePiece({"a"}) + WireBytes(1, WireNumber(3, 7))),
            "tokenizer model: piece 1: piece type 7, known are 1 to 6");
}

TEST(TokenizerModelTest, RejectsKnownFieldsOfAnotherWireType) {
  EXPECT_EQ(ParseError(WireNumber(1, 5)), "tokenizer model: field 1 has wire type 0, expected 2");
  EXPECT_EQ(ParseError(WireBytes(1, WireNumber(2, 5))),
            "tokenizer model: piece 0: field 2 has wire type 0, expected 5");
  EXPECT_EQ(ParseError(WireBytes(2, WireBytes(35, "x"))),
            "tokenizer model: trainer_spec: field 35 has wire type 2, expected 0");
}

TEST(TokenizerModelTest, RejectsLengthBeyondTheMessage) {
  EXPECT_EQ(ParseError("\x0A\x05"
                       "ab"),
            "tokenizer model: byte 2 of 4: a field of 5 bytes, but 2 are left");
}

TEST(TokenizerModelTest, RejectsNegativeLength) {
  EXPECT_EQ(
      ParseError(std::string("\x0A") + WireVarint(~uint64_t{0})),
      "tokenizer model: byte 11 of 11: a field of 18446744073709551615 bytes, but 0 are left");
}

TEST(TokenizerModelTest, RejectsPieceLongerThanItsMessage) {
  EXPECT_EQ(ParseError(WireBytes(1,
                                 "\x0A\x05"
                                 "ab") +
                       std::string(100, 'x')),
            "tokenizer model: piece 0: byte 2 of 4: a field of 5 bytes, but 2 are left");
}

TEST(TokenizerModelTest, RejectsUnendingNumber) {
  EXPECT_EQ(ParseError(std::string(11, '\xFF')),
            "tokenizer model: byte 10 of 11: a number of more than 64 bits");
  EXPECT_EQ(ParseError("\xFF"), "tokenizer model: byte 1 of 1: the message ends inside a number");
}

TEST(TokenizerModelTest, RejectsGroupsAndFieldZero) {
  EXPECT_EQ(ParseError("\x0B"),
            "tokenizer model: byte 1 of 1: field 1 has wire type 3, which is not supported");
  EXPECT_EQ(ParseError(std::string("\x02\x00", 2)),
            "tokenizer model: byte 1 of 2: field tag 2 is out of range");
}

TEST(TokenizerModelTest, StopsAtTooManyPieces) {
  std::string bytes;
  for (int64_t i = 0; i <= kMaxVocabularyPieces; ++i) bytes += std::string("\x0A\x00", 2);
  EXPECT_EQ(ParseError(bytes), "tokenizer model: more than 1000000 pieces");
}

class TokenizerModelFileTest : public testing::Test {
 protected:
  void SetUp() override {
    path_ = absl::StrCat(testing::TempDir(), "bora_tokenizer_model_test.", getpid());
  }
  void TearDown() override { std::filesystem::remove(path_); }
  std::string path_;
};

TEST_F(TokenizerModelFileTest, LoadsAFile) {
  std::ofstream(path_, std::ios::binary) << SerializeModel(MakeVocabulary(true, {{"a", -1}}));
  const absl::StatusOr<Vocabulary> vocabulary = LoadSentencePieceModel(path_);
  ASSERT_TRUE(vocabulary.ok()) << vocabulary.status();
  EXPECT_EQ(vocabulary->pieces.size(), 260);
}

TEST_F(TokenizerModelFileTest, NamesAFileThatIsNoModel) {
  std::ofstream(path_, std::ios::binary) << "not a model";
  const absl::Status status = LoadSentencePieceModel(path_).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr(path_ + ": tokenizer model: "));
}

TEST_F(TokenizerModelFileTest, CallsAGitLfsPointerOne) {
  std::ofstream(path_, std::ios::binary) << "version https://git-lfs.github.com/spec/v1\n";
  const absl::Status status = LoadSentencePieceModel(path_).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr(path_ + ": a Git LFS pointer"));
}

TEST_F(TokenizerModelFileTest, RefusesALargeFileUnread) {
  std::ofstream(path_) << "";
  std::filesystem::resize_file(path_, kMaxTokenizerModelBytes + 1);  // sparse
  EXPECT_THAT(std::string(LoadSentencePieceModel(path_).status().message()),
              HasSubstr("has 67108865 bytes, supported are 67108864"));
}

TEST_F(TokenizerModelFileTest, MissingFileIsNotFound) {
  const absl::Status status = LoadSentencePieceModel(path_).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(std::string(status.message()), path_ + ": No such file or directory");
}

TEST_F(TokenizerModelFileTest, FolderIsNoRegularFile) {
  const absl::Status status = LoadSentencePieceModel(testing::TempDir()).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
}

}  // namespace
}  // namespace bora

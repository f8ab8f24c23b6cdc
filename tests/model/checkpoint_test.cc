// Model directories: both layouts, shards, and every way in which the files and the config may
// contradict each other.
#include "model/checkpoint/checkpoint.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>

#include "absl/strings/str_replace.h"
#include "model/checkpoint/dummy_weights.h"
#include "model/tools/make_checkpoint.h"
#include "tests/model/model_test_util.h"

namespace bora {
namespace {

using ::testing::HasSubstr;

constexpr char kQ0[] = "model.layers.0.self_attn.q_proj.weight";

void Make(const std::string& dir, const MakeCheckpointOptions& options,
          const ModelConfig& config = TinyConfig()) {
  const absl::Status status = WriteRandomCheckpoint(config, options, dir);
  ASSERT_TRUE(status.ok()) << status;
}

std::string ErrorOf(const std::string& dir) {
  const auto checkpoint = Checkpoint::Open(dir);
  EXPECT_FALSE(checkpoint.ok());
  return std::string(checkpoint.status().message());
}

std::string ReadText(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

// A directory with model.safetensors and config.json, whose tensors `change` has edited.
class ChangedCheckpoint {
 public:
  explicit ChangedCheckpoint(const std::function<void(std::map<std::string, RawTensor>&)>& change) {
    Make(dir(), {.dtype = FileDType::kF32});
    const std::string path = dir_.File("hf/model.safetensors");
    std::map<std::string, RawTensor> tensors = ReadAll(path);
    change(tensors);
    WriteFile(path, SafetensorsBytes(tensors));
  }
  std::string dir() const { return dir_.File("hf"); }

 private:
  TempDir dir_;
};

TEST(CheckpointTest, OpensBothLayoutsShardedAndNot) {
  for (const auto layout : {CheckpointLayout::kHuggingFace, CheckpointLayout::kMistral}) {
    for (const int n_shards : {1, 2, 5, 21}) {
      const TempDir dir;
      Make(dir.File("m"), {.layout = layout, .n_shards = n_shards});
      const auto checkpoint = Checkpoint::Open(dir.File("m"));
      ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
      EXPECT_EQ(checkpoint->layout(), layout);
      EXPECT_EQ(checkpoint->config(), TinyConfig());
      const StoredTensor wq = checkpoint->Find({TensorKind::kWq, 1});
      EXPECT_EQ(wq.dtype, FileDType::kBf16);
      EXPECT_EQ(wq.info->end - wq.info->begin, 32u * 24u * 2u);
      EXPECT_EQ(wq.interleaved_rotary, layout == CheckpointLayout::kMistral);
      EXPECT_FALSE(checkpoint->Find({TensorKind::kWv, 1}).interleaved_rotary);
    }
  }
}

TEST(CheckpointTest, MissingTensorsAreListedAndCounted) {
  const ChangedCheckpoint one([](auto& tensors) { tensors.erase(kQ0); });
  EXPECT_THAT(ErrorOf(one.dir()), HasSubstr(absl::StrCat("1 tensor missing: ", kQ0)));
  const ChangedCheckpoint many([](auto& tensors) {
    for (auto it = tensors.begin(); it != tensors.end();) {
      it = it->first.find("layers.1") != std::string::npos ? tensors.erase(it) : std::next(it);
    }
  });
  EXPECT_THAT(ErrorOf(many.dir()), HasSubstr("9 tensors missing: model.layers.1.input_layernorm"));
  EXPECT_THAT(ErrorOf(many.dir()), HasSubstr(", ..."));
}

TEST(CheckpointTest, UnexpectedTensorsAreListed) {
  const ChangedCheckpoint extra([](auto& tensors) {
    tensors["model.layers.0.self_attn.q_proj.bias"] = {FileDType::kF32, {1}, std::string(4, '\0')};
  });
  EXPECT_THAT(ErrorOf(extra.dir()),
              HasSubstr("1 tensor unexpected: \"model.layers.0.self_attn.q_proj.bias\""));
}

TEST(CheckpointTest, ALayerTooManyIsUnexpected) {
  const TempDir dir;
  ModelConfig three_layers = TinyConfig();
  three_layers.n_layers = 3;
  Make(dir.File("m"), {}, three_layers);
  WriteFile(dir.File("m/config.json"), ToHfConfigJson(TinyConfig(), "bfloat16"));
  EXPECT_THAT(ErrorOf(dir.File("m")), HasSubstr("9 tensors unexpected: \"model.layers.2."));
}

TEST(CheckpointTest, RotaryFrequencyBuffersAreIgnored) {
  const ChangedCheckpoint extra([](auto& tensors) {
    tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = {
        FileDType::kF32, {4}, std::string(16, '\0')};
  });
  EXPECT_TRUE(Checkpoint::Open(extra.dir()).ok()) << Checkpoint::Open(extra.dir()).status();
}

TEST(CheckpointTest, AWrongShapeNamesBothShapes) {
  const ChangedCheckpoint turned([](auto& tensors) { tensors[kQ0].shape = {24, 32}; });
  EXPECT_THAT(ErrorOf(turned.dir()),
              HasSubstr(absl::StrCat("model.safetensors: tensor ", kQ0,
                                     ": shape [24, 32], config says [32, 24]")));
  const ChangedCheckpoint flat([](auto& tensors) { tensors["model.norm.weight"].shape = {1, 24}; });
  EXPECT_THAT(ErrorOf(flat.dir()), HasSubstr("shape [1, 24], config says [24]"));
  const ChangedCheckpoint rank_3([](auto& tensors) { tensors[kQ0].shape = {32, 4, 6}; });
  EXPECT_THAT(ErrorOf(rank_3.dir()), HasSubstr("shape [32, 4, 6], config says [32, 24]"));
}

TEST(CheckpointTest, ADTypeThatCannotBeReadIsRefusedByName) {
  const ChangedCheckpoint ints([](auto& tensors) { tensors[kQ0].dtype = FileDType::kI32; });
  EXPECT_THAT(ErrorOf(ints.dir()), HasSubstr("dtype I32, supported are F32, F16 and BF16"));
}

TEST(CheckpointTest, DTypesMayDifferBetweenTensors) {
  const ChangedCheckpoint mixed([](auto& tensors) {
    tensors["model.norm.weight"] = {FileDType::kBf16, {24}, std::string(48, '\0')};
  });
  EXPECT_TRUE(Checkpoint::Open(mixed.dir()).ok());
}

TEST(CheckpointTest, AMalformedShardIsNamed) {
  const TempDir dir;
  Make(dir.File("m"), {.n_shards = 2});
  const std::string shard = dir.File("m/model-00002-of-00002.safetensors");
  std::filesystem::resize_file(shard, std::filesystem::file_size(shard) - 1);
  EXPECT_THAT(ErrorOf(dir.File("m")), HasSubstr(shard + ": tensor"));
}

TEST(CheckpointTest, AMissingShardIsNamed) {
  const TempDir dir;
  Make(dir.File("m"), {.n_shards = 2});
  std::filesystem::remove(dir.File("m/model-00002-of-00002.safetensors"));
  EXPECT_EQ(Checkpoint::Open(dir.File("m")).status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(ErrorOf(dir.File("m")),
              HasSubstr("model.safetensors.index.json: names 2 files, of which 1 is not here: "
                        "model-00002-of-00002.safetensors"));
}

// Left over from a download of shards, or copied with the other JSON files.
TEST(CheckpointTest, AnIndexWithoutItsShardsIsPassedOverForAWholeFile) {
  const TempDir dir;
  Make(dir.File("m"), {.n_shards = 3});
  Make(dir.File("whole"), {.seed = 1});
  for (const char* left :
       {"model-00001-of-00003.safetensors", "model-00002-of-00003.safetensors"}) {
    std::filesystem::remove(dir.File(absl::StrCat("m/", left)));
    std::filesystem::copy_file(dir.File("whole/model.safetensors"), dir.File("m/model.safetensors"),
                               std::filesystem::copy_options::overwrite_existing);
    const auto checkpoint = Checkpoint::Open(dir.File("m"));
    ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
    EXPECT_EQ(checkpoint->Find({TensorKind::kNorm}).file->path(), dir.File("m/model.safetensors"));
  }
}

// A Mistral repository without its Hugging Face shards has their index all the same.
TEST(CheckpointTest, AnIndexWithoutItsShardsDoesNotHideTheOtherLayout) {
  const TempDir dir;
  Make(dir.File("m"), {.layout = CheckpointLayout::kMistral});
  Make(dir.File("hf"), {.n_shards = 2});
  for (const char* name : {"config.json", "model.safetensors.index.json"}) {
    std::filesystem::copy_file(dir.File(absl::StrCat("hf/", name)),
                               dir.File(absl::StrCat("m/", name)));
  }
  const auto checkpoint = Checkpoint::Open(dir.File("m"));
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  EXPECT_EQ(checkpoint->layout(), CheckpointLayout::kMistral);
}

TEST(CheckpointTest, WeightsOfOtherFormatsAreNamed) {
  const TempDir dir;
  WriteFile(dir.File("config.json"), ToHfConfigJson(TinyConfig(), "float32"));
  WriteFile(dir.File("pytorch_model-00001-of-00002.bin"), "x");
  WriteFile(dir.File("model.Q4.gguf"), "x");
  EXPECT_THAT(ErrorOf(dir.path()),
              HasSubstr("(*.bin, *.gguf files are here, but only safetensors are read)"));
}

TEST(CheckpointTest, AGitLfsPointerIsCalledOne) {
  const std::string pointer =
      "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 948524\n";
  for (const char* name : {"model.safetensors", "config.json"}) {
    const TempDir dir;
    Make(dir.File("m"), {});
    WriteFile(dir.File(absl::StrCat("m/", name)), pointer);
    EXPECT_THAT(ErrorOf(dir.File("m")), HasSubstr(absl::StrCat(name, ": a Git LFS pointer")));
  }
}

TEST(CheckpointTest, ANameOnAHubIsToldFromAFolder) {
  EXPECT_THAT(ErrorOf("mistralai/Mistral-7B-v0.1"),
              HasSubstr("mistralai/Mistral-7B-v0.1: no such folder; a model of a hub has to be"));
  const TempDir dir;
  EXPECT_THAT(ErrorOf(dir.File("none")), ::testing::EndsWith("none: no such folder"));
  WriteFile(dir.File("file"), "x");
  EXPECT_THAT(ErrorOf(dir.File("file")), HasSubstr("file: not a folder"));
}

TEST(CheckpointTest, NoModelAndNoWeightsAreNotFound) {
  const TempDir dir;
  EXPECT_THAT(ErrorOf(dir.path()), HasSubstr("neither config.json nor params.json"));
  WriteFile(dir.File("config.json"), ToHfConfigJson(TinyConfig(), "float32"));
  EXPECT_THAT(ErrorOf(dir.path()),
              HasSubstr("neither model.safetensors.index.json nor model.safetensors"));
  const auto directory = ReadModelDirectory(dir.path());
  ASSERT_TRUE(directory.ok()) << directory.status();
  EXPECT_EQ(directory->config, TinyConfig());
}

// Trap 5: published repositories hold both layouts side by side.
TEST(CheckpointTest, WithBothLayoutsHuggingFaceIsRead) {
  const TempDir dir;
  Make(dir.File("m"), {.dtype = FileDType::kF32, .n_shards = 2});
  Make(dir.File("other"), {.layout = CheckpointLayout::kMistral});
  for (const char* name : {"params.json", "consolidated.safetensors"}) {
    std::filesystem::copy_file(dir.File(absl::StrCat("other/", name)),
                               dir.File(absl::StrCat("m/", name)));
  }
  const auto checkpoint = Checkpoint::Open(dir.File("m"));
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  EXPECT_EQ(checkpoint->layout(), CheckpointLayout::kHuggingFace);
  EXPECT_EQ(checkpoint->Find({TensorKind::kWq, 0}).dtype, FileDType::kF32);
}

// A Mistral repository may carry config.json for tools although only consolidated weights are
// there.
TEST(CheckpointTest, TheLayoutThatHasWeightsIsRead) {
  const TempDir dir;
  Make(dir.File("m"), {.layout = CheckpointLayout::kMistral});
  WriteFile(dir.File("m/config.json"), "{}");
  const auto checkpoint = Checkpoint::Open(dir.File("m"));
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  EXPECT_EQ(checkpoint->layout(), CheckpointLayout::kMistral);
}

// A stale model.safetensors beside the index must not be read.
TEST(CheckpointTest, TheIndexIsBelieved) {
  const TempDir dir;
  Make(dir.File("m"), {.n_shards = 2});
  WriteFile(dir.File("m/model.safetensors"), "not a model");
  WriteFile(dir.File("m/stray.safetensors"), "not a model either");
  EXPECT_TRUE(Checkpoint::Open(dir.File("m")).ok());
}

TEST(CheckpointIndexTest, MayOnlyNameFilesOfItsDirectory) {
  const TempDir dir;
  Make(dir.File("m"), {.n_shards = 2});
  const std::string index = dir.File("m/model.safetensors.index.json");
  const std::string good = ReadText(index);
  const std::string shard = "model-00001-of-00002.safetensors";
  for (const std::string& escape :
       {std::string("../") + shard, "/tmp/" + shard, "./" + shard, "sub/" + shard,
        std::string("..\\\\") + shard, std::string(".."), std::string("."), std::string(""),
        std::string(".safetensors"), std::string("config.json"),
        std::string("a\\u0000.safetensors")}) {
    WriteFile(index, absl::StrReplaceAll(good, {{shard, escape}}));
    const std::string error = ErrorOf(dir.File("m"));
    EXPECT_THAT(error, HasSubstr(index + ": weight_map names the file ")) << escape;
    EXPECT_THAT(error, HasSubstr("must be a plain *.safetensors name in the same directory"));
  }
}

TEST(CheckpointIndexTest, MustAgreeWithTheShards) {
  const TempDir dir;
  Make(dir.File("m"), {.n_shards = 2});
  const std::string index = dir.File("m/model.safetensors.index.json");
  const std::string good = ReadText(index);
  const std::string first = "\"model.embed_tokens.weight\": \"model-00001-of-00002.safetensors\"";
  const std::string second = "\"model.embed_tokens.weight\": \"model-00002-of-00002.safetensors\"";
  WriteFile(index, absl::StrReplaceAll(good, {{first, second}}));
  EXPECT_THAT(ErrorOf(dir.File("m")),
              HasSubstr("model.safetensors.index.json places in model-00002-of-00002"));
  WriteFile(index, absl::StrReplaceAll(good, {{"model.embed_tokens.weight", "x"}}));
  EXPECT_THAT(ErrorOf(dir.File("m")), HasSubstr("model.safetensors.index.json does not list"));
  WriteFile(index, absl::StrReplaceAll(
                       good, {{first, first + ",\"x\":\"model-00001-of-00002.safetensors\""}}));
  EXPECT_THAT(ErrorOf(dir.File("m")), HasSubstr("places tensor \"x\" in model-00001-of-00002"));
}

TEST(CheckpointIndexTest, MalformedIndexIsRefused) {
  const TempDir dir;
  Make(dir.File("m"), {.n_shards = 2});
  const std::string index = dir.File("m/model.safetensors.index.json");
  for (const char* text : {"", "[]", "{}", R"({"weight_map":[]})", R"({"weight_map":{}})",
                           R"({"weight_map":{"a":1}})", R"({"weight_map":{"a":"x","a":"y"}})"}) {
    WriteFile(index, text);
    EXPECT_THAT(ErrorOf(dir.File("m")), HasSubstr(index + ": ")) << text;
  }
}

TEST(CheckpointIndexTest, TheNumberOfShardsIsBounded) {
  const TempDir dir;
  Make(dir.File("m"), {.n_shards = 2});
  std::string map;
  for (int i = 0; i < 1001; ++i) {
    absl::StrAppend(&map, i == 0 ? "" : ",", "\"t", i, "\":\"", i, ".safetensors\"");
  }
  WriteFile(dir.File("m/model.safetensors.index.json"), "{\"weight_map\":{" + map + "}}");
  EXPECT_THAT(ErrorOf(dir.File("m")), HasSubstr("names 1001 files, the limit is 1000"));
}

// The Hugging Face cache is made of symbolic links to files elsewhere.
TEST(CheckpointTest, SymbolicLinksAreFollowed) {
  const TempDir dir;
  Make(dir.File("blobs"), {.n_shards = 2});
  std::filesystem::create_directory(dir.File("snapshot"));
  for (const auto& entry : std::filesystem::directory_iterator(dir.File("blobs"))) {
    std::filesystem::create_symlink("../blobs" / entry.path().filename(),
                                    dir.File("snapshot") / entry.path().filename());
  }
  EXPECT_TRUE(Checkpoint::Open(dir.File("snapshot")).ok());
}

TEST(CheckpointTest, ATiedHeadIsTheEmbedding) {
  ModelConfig tied = TinyConfig();
  tied.tie_word_embeddings = true;
  for (const auto layout : {CheckpointLayout::kHuggingFace, CheckpointLayout::kMistral}) {
    const TempDir dir;
    Make(dir.File("m"), {.layout = layout, .dtype = FileDType::kF32}, tied);
    const auto checkpoint = Checkpoint::Open(dir.File("m"));
    ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
    EXPECT_EQ(checkpoint->Find({TensorKind::kOutput, kNoLayer}).info,
              checkpoint->Find({TensorKind::kTokEmbeddings, kNoLayer}).info);
  }
}

// A head that the config says is not there: a copy of the embeddings may be left out, anything else
// is a contradiction, and dropping it would serve nonsense.
TEST(CheckpointTest, AHeadBesideTiedEmbeddingsMustBeTheirCopy) {
  ModelConfig tied = TinyConfig();
  tied.tie_word_embeddings = true;
  const std::string tied_json = ToHfConfigJson(tied, "float32");
  const std::string table = "model.embed_tokens.weight";
  const std::string head = "lm_head.weight";

  const ChangedCheckpoint copy([&](auto& tensors) { tensors[head] = tensors[table]; });
  WriteFile(copy.dir() + "/config.json", tied_json);
  EXPECT_TRUE(Checkpoint::Open(copy.dir()).ok()) << Checkpoint::Open(copy.dir()).status();

  const ChangedCheckpoint other([&](auto& tensors) {
    tensors[head] = tensors[table];
    tensors[head].bytes.back() ^= 1;
  });
  WriteFile(other.dir() + "/config.json", tied_json);
  EXPECT_THAT(ErrorOf(other.dir()),
              HasSubstr("tensor lm_head.weight has other values than model.embed_tokens.weight, "
                        "but config.json says that the head is tied"));

  const ChangedCheckpoint other_type([&](auto& tensors) {
    tensors[head].dtype = FileDType::kBf16;
    tensors[head].bytes.resize(tensors[head].bytes.size() / 2);
  });
  WriteFile(other_type.dir() + "/config.json", tied_json);
  EXPECT_THAT(ErrorOf(other_type.dir()),
              HasSubstr("lm_head.weight is BF16 and F32 is model.embed_tokens.weight"));
}

std::string FingerprintOf(const std::string& dir) {
  const auto checkpoint = Checkpoint::Open(dir);
  EXPECT_TRUE(checkpoint.ok()) << checkpoint.status();
  return checkpoint.ok() ? checkpoint->fingerprint().ToHex() : "";
}

TEST(CheckpointFingerprintTest, DependsOnContentNotOnShards) {
  const TempDir dir;
  Make(dir.File("a"), {});
  Make(dir.File("b"), {.n_shards = 3});
  EXPECT_EQ(FingerprintOf(dir.File("a")).size(), 32u);
  EXPECT_EQ(FingerprintOf(dir.File("a")), FingerprintOf(dir.File("b")));
}

TEST(CheckpointFingerprintTest, SeesSeedDTypeConfigLayoutAndTokenizer) {
  const TempDir dir;
  Make(dir.File("a"), {});
  std::set<std::string> seen = {FingerprintOf(dir.File("a"))};
  Make(dir.File("seed"), {.seed = 1});
  Make(dir.File("dtype"), {.dtype = FileDType::kF16});
  Make(dir.File("layout"), {.layout = CheckpointLayout::kMistral});
  ModelConfig other_theta = TinyConfig();
  other_theta.rope_theta = 1e4;
  Make(dir.File("theta"), {}, other_theta);
  Make(dir.File("tokenizer"), {});
  WriteFile(dir.File("tokenizer/tokenizer.model"), "pieces");
  for (const char* name : {"seed", "dtype", "layout", "theta", "tokenizer"}) {
    EXPECT_TRUE(seen.insert(FingerprintOf(dir.File(name))).second) << name;
  }
}

TEST(CheckpointFingerprintTest, SeesAChangedElementInTheSamples) {
  const ChangedCheckpoint a([](auto&) {});
  const ChangedCheckpoint b([](auto& tensors) { tensors[kQ0].bytes[5] ^= 1; });
  EXPECT_NE(FingerprintOf(a.dir()), FingerprintOf(b.dir()));
}

// The value itself is part of the contract: hosts of different builds must agree.
TEST(CheckpointFingerprintTest, IsFnv1a128) {
  Fingerprinter hash;
  EXPECT_EQ(hash.Get().ToHex(), "6c62272e07bb014262b821756295c58d");
  hash.AddString("a");
  // Length 1 in eight little-endian bytes, then 'a'.
  unsigned __int128 want =
      (static_cast<unsigned __int128>(0x6c62272e07bb0142u) << 64) | 0x62b821756295c58du;
  const auto prime = (static_cast<unsigned __int128>(0x1000000u) << 64) | 0x13b;
  for (const uint8_t byte : {1, 0, 0, 0, 0, 0, 0, 0, 97}) want = (want ^ byte) * prime;
  EXPECT_EQ(hash.Get(),
            (Fingerprint{static_cast<uint64_t>(want >> 64), static_cast<uint64_t>(want)}));
}

}  // namespace
}  // namespace bora

// The published configs of the supported models parse to the right numbers, and whatever would
// change the numbers without being supported is refused by name.
#include "model/config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "model/json.h"
#include "tests/model/model_test_util.h"

namespace bora {
namespace {

using Json = nlohmann::json;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

// config.json of mistralai/Mistral-7B-v0.1 as published; the other Mistral files differ from it in
// the fields that MistralHf() takes.
Json MistralHf(double rope_theta, const Json& sliding_window, int64_t vocab_size) {
  Json json = Json::parse(R"({
    "architectures": ["MistralForCausalLM"], "bos_token_id": 1, "eos_token_id": 2,
    "hidden_act": "silu", "hidden_size": 4096, "initializer_range": 0.02,
    "intermediate_size": 14336, "max_position_embeddings": 32768, "model_type": "mistral",
    "num_attention_heads": 32, "num_hidden_layers": 32, "num_key_value_heads": 8,
    "rms_norm_eps": 1e-05, "tie_word_embeddings": false, "torch_dtype": "bfloat16",
    "transformers_version": "4.34.0.dev0", "use_cache": true})");
  json["rope_theta"] = rope_theta;
  json["sliding_window"] = sliding_window;
  json["vocab_size"] = vocab_size;
  return json;
}

// config.json of meta-llama/Llama-2-13b-hf: it has no rope_theta.
Json Llama2Hf() {
  return Json::parse(R"({
    "architectures": ["LlamaForCausalLM"], "bos_token_id": 1, "eos_token_id": 2,
    "hidden_act": "silu", "hidden_size": 5120, "initializer_range": 0.02,
    "intermediate_size": 13824, "max_position_embeddings": 4096, "model_type": "llama",
    "num_attention_heads": 40, "num_hidden_layers": 40, "num_key_value_heads": 40,
    "pretraining_tp": 1, "rms_norm_eps": 1e-05, "rope_scaling": null,
    "tie_word_embeddings": false, "torch_dtype": "float16",
    "transformers_version": "4.32.0.dev0", "use_cache": true, "vocab_size": 32000})");
}

// config.json of a LLaMA-1 33B conversion: neither KV heads nor rope_theta, and eps is 1e-6.
Json Llama33bHf() {
  return Json::parse(R"({
    "architectures": ["LLaMAForCausalLM"], "bos_token_id": 1, "eos_token_id": 2,
    "hidden_act": "silu", "hidden_size": 6656, "intermediate_size": 17920,
    "initializer_range": 0.02, "max_sequence_length": 2048, "model_type": "llama",
    "num_attention_heads": 52, "num_hidden_layers": 60, "pad_token_id": 0, "rms_norm_eps": 1e-06,
    "torch_dtype": "float16", "transformers_version": "4.27.0.dev0", "use_cache": true,
    "vocab_size": 32000})");
}

Json CodeLlamaHf() {
  return Json::parse(R"({
    "architectures": ["LlamaForCausalLM"], "bos_token_id": 1, "eos_token_id": 2,
    "hidden_act": "silu", "hidden_size": 4096, "intermediate_size": 11008,
    "max_position_embeddings": 16384, "model_type": "llama", "num_attention_heads": 32,
    "num_hidden_layers": 32, "num_key_value_heads": 32, "pretraining_tp": 1,
    "rms_norm_eps": 1e-05, "rope_scaling": null, "rope_theta": 1000000,
    "tie_word_embeddings": false, "torch_dtype": "bfloat16", "use_cache": true,
    "vocab_size": 32016})");
}

// params.json of Mistral 7B v0.1 as published.
Json MistralV01Params() {
  return Json::parse(R"({
    "dim": 4096, "n_layers": 32, "head_dim": 128, "hidden_dim": 14336, "n_heads": 32,
    "n_kv_heads": 8, "norm_eps": 1e-05, "sliding_window": 4096, "vocab_size": 32000})");
}

ModelConfig ParseOk(const Json& json) {
  const auto config = ParseHfConfig(json.dump());
  EXPECT_TRUE(config.ok()) << config.status();
  return config.value_or(ModelConfig());
}

ModelConfig ParseParamsOk(const Json& json) {
  const auto config = ParseMistralParams(json.dump());
  EXPECT_TRUE(config.ok()) << config.status();
  return config.value_or(ModelConfig());
}

std::string ErrorOf(const absl::StatusOr<ModelConfig>& config) {
  EXPECT_EQ(config.status().code(), absl::StatusCode::kInvalidArgument) << config.status();
  return std::string(config.status().message());
}

struct Numbers {
  int64_t n_layers, dim, n_heads, n_kv_heads, head_dim, hidden_dim, vocab_size;
  double rope_theta, norm_eps;
  int64_t max_position;
};

void ExpectNumbers(const ModelConfig& config, const Numbers& want) {
  EXPECT_EQ(config.n_layers, want.n_layers);
  EXPECT_EQ(config.dim, want.dim);
  EXPECT_EQ(config.n_heads, want.n_heads);
  EXPECT_EQ(config.n_kv_heads, want.n_kv_heads);
  EXPECT_EQ(config.head_dim, want.head_dim);
  EXPECT_EQ(config.hidden_dim, want.hidden_dim);
  EXPECT_EQ(config.vocab_size, want.vocab_size);
  EXPECT_EQ(config.rope_theta, want.rope_theta);
  EXPECT_EQ(config.norm_eps, want.norm_eps);
  EXPECT_EQ(config.max_position, want.max_position);
  EXPECT_EQ(config.bos_id, 1);
  EXPECT_THAT(config.eos_ids, ElementsAre(2));
  EXPECT_FALSE(config.tie_word_embeddings);
}

TEST(PublishedConfigTest, MistralV01) {
  const ModelConfig config = ParseOk(MistralHf(1e4, 4096, 32000));
  ExpectNumbers(config, {32, 4096, 32, 8, 128, 14336, 32000, 1e4, 1e-5, 32768});
  EXPECT_EQ(config.sliding_window, 4096);
  EXPECT_THAT(config.notes, IsEmpty());
}

TEST(PublishedConfigTest, MistralV02) {
  const ModelConfig config = ParseOk(MistralHf(1e6, nullptr, 32000));
  ExpectNumbers(config, {32, 4096, 32, 8, 128, 14336, 32000, 1e6, 1e-5, 32768});
  EXPECT_EQ(config.sliding_window, std::nullopt);
  EXPECT_EQ(ParameterCount(config), 7'241'732'096);
}

TEST(PublishedConfigTest, MistralV03) {
  const ModelConfig config = ParseOk(MistralHf(1e6, nullptr, 32768));
  ExpectNumbers(config, {32, 4096, 32, 8, 128, 14336, 32768, 1e6, 1e-5, 32768});
}

TEST(PublishedConfigTest, Llama2With13B) {
  const ModelConfig config = ParseOk(Llama2Hf());
  ExpectNumbers(config, {40, 5120, 40, 40, 128, 13824, 32000, 1e4, 1e-5, 4096});
  EXPECT_EQ(ParameterCount(config), 13'015'864'320);
  EXPECT_THAT(config.notes, ElementsAre(HasSubstr("no rope_theta: 10000")));
}

TEST(PublishedConfigTest, Llama1With33B) {
  const ModelConfig config = ParseOk(Llama33bHf());
  ExpectNumbers(config, {60, 6656, 52, 52, 128, 17920, 32000, 1e4, 1e-6, 2048});
  EXPECT_EQ(ParameterCount(config), 32'528'943'616);
  EXPECT_EQ(config.notes.size(), 2u) << "one for rope_theta, one for the KV heads";
}

TEST(PublishedConfigTest, CodeLlama7B) {
  const ModelConfig config = ParseOk(CodeLlamaHf());
  ExpectNumbers(config, {32, 4096, 32, 32, 128, 11008, 32016, 1e6, 1e-5, 16384});
  EXPECT_EQ(ParameterCount(config), 6'738'546'688);
}

TEST(PublishedConfigTest, MistralParams) {
  const ModelConfig v01 = ParseParamsOk(MistralV01Params());
  ExpectNumbers(v01, {32, 4096, 32, 8, 128, 14336, 32000, 1e4, 1e-5, 32768});
  EXPECT_EQ(v01.sliding_window, 4096);
  Json v03 = MistralV01Params();
  v03.erase("sliding_window");
  v03["vocab_size"] = 32768;
  v03["rope_theta"] = 1000000.0;
  ExpectNumbers(ParseParamsOk(v03), {32, 4096, 32, 8, 128, 14336, 32768, 1e6, 1e-5, 32768});
}

// Trap 1: v0.1's params.json leaves out rope_theta, and so does v0.2's.
TEST(ConfigTrapTest, ThetaMissingFromParamsDependsOnTheWindow) {
  Json params = MistralV01Params();
  EXPECT_EQ(ParseParamsOk(params).rope_theta, 1e4);
  EXPECT_THAT(ParseParamsOk(params).notes,
              ::testing::Contains(HasSubstr("10000, since it sets sliding_window")));
  params["sliding_window"] = nullptr;
  EXPECT_EQ(ParseParamsOk(params).rope_theta, 1e6);
  params.erase("sliding_window");
  EXPECT_EQ(ParseParamsOk(params).rope_theta, 1e6);
  params["sliding_window"] = 4096;
  params["rope_theta"] = 5e5;
  EXPECT_EQ(ParseParamsOk(params).rope_theta, 5e5);
}

// Trap 2: null is full attention, not a default window.
TEST(ConfigTrapTest, NullWindowIsFullAttention) {
  const ModelConfig config = ParseOk(MistralHf(1e6, nullptr, 32000));
  EXPECT_TRUE(CheckContextLength(config, 32768).ok());
}

TEST(ConfigTrapTest, AMissingWindowIsNotGuessed) {
  Json json = MistralHf(1e6, nullptr, 32000);
  json.erase("sliding_window");
  EXPECT_THAT(ErrorOf(ParseHfConfig(json.dump())), HasSubstr("sliding_window is missing"));
}

// Trap 3: a windowed model is exact up to its window and refused beyond it.
TEST(ConfigTrapTest, AWindowLimitsTheContextLength) {
  const ModelConfig config = ParseOk(MistralHf(1e4, 4096, 32000));
  EXPECT_TRUE(CheckContextLength(config, 4096).ok());
  const absl::Status status = CheckContextLength(config, 4097);
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr("sliding window 4096 is not supported"));
  EXPECT_THAT(std::string(status.message()), HasSubstr("limit --max-model-len to 4096"));
}

// Trap 6: eps is read, and its absence is an error.
TEST(ConfigTrapTest, EpsIsNeverDefaulted) {
  EXPECT_EQ(ParseOk(Llama33bHf()).norm_eps, 1e-6);
  Json hf = Llama2Hf();
  hf.erase("rms_norm_eps");
  EXPECT_THAT(ErrorOf(ParseHfConfig(hf.dump())), HasSubstr("rms_norm_eps is missing"));
  Json params = MistralV01Params();
  params.erase("norm_eps");
  EXPECT_THAT(ErrorOf(ParseMistralParams(params.dump())), HasSubstr("norm_eps is missing"));
}

TEST(ConfigTrapTest, ThetaOfAMistralConfigIsNeverDefaulted) {
  Json json = MistralHf(1e6, nullptr, 32000);
  json.erase("rope_theta");
  EXPECT_THAT(ErrorOf(ParseHfConfig(json.dump())), HasSubstr("rope_theta is missing"));
}

// Trap 7: the first Llama 2 files said 2048. The file is believed, so a longer context is refused.
TEST(ConfigTrapTest, ContextBeyondTheFileIsRefused) {
  Json json = Llama2Hf();
  json["max_position_embeddings"] = 2048;
  const ModelConfig config = ParseOk(json);
  EXPECT_TRUE(CheckContextLength(config, 2048).ok());
  EXPECT_THAT(std::string(CheckContextLength(config, 4096).message()),
              HasSubstr("--max-model-len is 4096, the model's context length is 2048"));
  EXPECT_FALSE(CheckContextLength(config, 0).ok());
}

struct ChangedField {
  const char* field;
  const char* value;  // JSON; empty removes the field
  const char* message;
};

class RefusedHfConfigTest : public ::testing::TestWithParam<ChangedField> {};

TEST_P(RefusedHfConfigTest, NamesTheField) {
  Json json = Llama2Hf();
  if (*GetParam().value == '\0') {
    json.erase(GetParam().field);
  } else {
    json[GetParam().field] = Json::parse(GetParam().value);
  }
  const std::string error = ErrorOf(ParseHfConfig(json.dump()));
  EXPECT_THAT(error, HasSubstr("config.json: "));
  EXPECT_THAT(error, HasSubstr(GetParam().message));
}

INSTANTIATE_TEST_SUITE_P(
    Unsupported, RefusedHfConfigTest,
    ::testing::Values(
        ChangedField{"rope_scaling", R"({"type":"linear","factor":2.0})",
                     R"(rope_scaling is {"fac)"},
        ChangedField{"rope_parameters", R"({"rope_type":"yarn","rope_theta":1e6})",
                     "rope_parameters is"},
        ChangedField{"rope_parameters", R"({"partial_rotary_factor":0.5})", "rope_parameters is"},
        ChangedField{"rope_parameters", R"({"type":"yarn","rope_theta":1e6})",
                     "rope_parameters is"},
        ChangedField{"rope_parameters", R"({"full_attention":{"rope_theta":1e6}})",
                     "rope_parameters is"},
        ChangedField{"rope_parameters", R"({"rope_type":"default","type":"linear"})",
                     "rope_parameters is"},
        ChangedField{"rope_scaling", R"({"rope_type":"default","factor":8.0})", "rope_scaling is"},
        ChangedField{"rope_scaling", R"({"type":7})", "rope_scaling is"},
        ChangedField{"rope_parameters", "[]", "rope_parameters is []"},
        ChangedField{"hidden_act", "\"gelu\"", "hidden_act is \"gelu\""},
        ChangedField{"attention_bias", "true", "attention_bias is true"},
        ChangedField{"mlp_bias", "true", "mlp_bias is true"},
        ChangedField{"quantization_config", R"({"bits":4})", "quantization_config is {\"bits\":4}"},
        ChangedField{"num_local_experts", "8", "num_local_experts is 8"},
        ChangedField{"partial_rotary_factor", "0.5", "partial_rotary_factor is 0.5"},
        ChangedField{"auto_map", R"({"AutoModel":"x.Y"})", "auto_map is"},
        ChangedField{"logits_scaling", "8.0", "logits_scaling is 8.0"},
        ChangedField{"layer_types", R"(["sliding_attention"])", "layer_types is"},
        ChangedField{"model_type", "\"mixtral\"", "model_type is \"mixtral\""},
        ChangedField{"model_type", "\"mistral\"", "but architectures says llama"},
        ChangedField{"model_type", "7", "model_type is 7"},
        ChangedField{"architectures", R"(["LlamaForSequenceClassification"])", "architectures is"},
        ChangedField{"architectures", R"(["LlamaForCausalLM","X"])", "architectures is"}),
    [](const auto& info) { return absl::StrCat(info.param.field, "_", info.index); });

INSTANTIATE_TEST_SUITE_P(
    OutOfRange, RefusedHfConfigTest,
    ::testing::Values(
        ChangedField{"hidden_size", "", "hidden_size is missing"},
        ChangedField{"hidden_size", "null", "hidden_size is missing"},
        ChangedField{"hidden_size", "0", "dim is 0, must be in [1, 131072]"},
        ChangedField{"hidden_size", "-4096", "does not divide hidden_size -4096"},
        ChangedField{"hidden_size", "131080", "dim is 131080"},
        ChangedField{"hidden_size", "4096.0", "hidden_size is 4096.0, must be an integer"},
        ChangedField{"hidden_size", "\"4096\"", "must be an integer"},
        ChangedField{"hidden_size", "18446744073709551615", "must be an integer"},
        ChangedField{"hidden_size", "5121", "num_attention_heads 40 does not divide hidden_size"},
        ChangedField{"intermediate_size", "9223372036854775807",
                     "hidden_dim is 9223372036854775807"},
        ChangedField{"num_hidden_layers", "1025", "n_layers is 1025, must be in [1, 1024]"},
        ChangedField{"num_attention_heads", "0", "head_dim is missing and num_attention_heads 0"},
        ChangedField{"num_key_value_heads", "3", "n_heads 40 is not a multiple of n_kv_heads 3"},
        ChangedField{"num_key_value_heads", "0", "n_kv_heads is 0"},
        ChangedField{"head_dim", "127", "head_dim is 127, must be even"},
        ChangedField{"head_dim", "2048", "head_dim is 2048, must be in [1, 1024]"},
        ChangedField{"vocab_size", "-1", "vocab_size is -1"},
        ChangedField{"vocab_size", "1048577", "vocab_size is 1048577"},
        ChangedField{"max_position_embeddings", "0", "max_position is 0"},
        ChangedField{"max_position_embeddings", "", "max_position_embeddings is missing"},
        ChangedField{"rope_theta", "0", "rope_theta is 0"},
        ChangedField{"rope_theta", "-1e6", "rope_theta is -1"},
        ChangedField{"rope_theta", "1e300", "rope_theta is 1e+300"},
        ChangedField{"rope_theta", "\"1e6\"", "rope_theta is \"1e6\", must be a number"},
        ChangedField{"rms_norm_eps", "0", "norm_eps is 0"},
        ChangedField{"rms_norm_eps", "1", "norm_eps is 1"},
        ChangedField{"rms_norm_eps", "true", "rms_norm_eps is true, must be a number"},
        ChangedField{"sliding_window", "0", "sliding_window is 0"},
        ChangedField{"sliding_window", "[4096]", "sliding_window is [4096]"},
        ChangedField{"bos_token_id", "32000", "token id 32000"},
        ChangedField{"bos_token_id", "-1", "bos_token_id is -1"},
        ChangedField{"eos_token_id", "[2,4294967298]", "eos_token_id is 4294967298"},
        ChangedField{"eos_token_id", "[]", "0 eos ids"},
        ChangedField{"eos_token_id", "{}", "eos_token_id is {}"},
        ChangedField{"tie_word_embeddings", "1", "tie_word_embeddings is 1"}),
    [](const auto& info) { return absl::StrCat(info.param.field, "_", info.index); });

TEST(HfConfigTest, NeutralValuesOfUnsupportedFieldsAreAccepted) {
  Json json = Llama2Hf();
  json["attention_bias"] = false;
  json["mlp_bias"] = false;
  json["quantization_config"] = nullptr;
  json["partial_rotary_factor"] = 1;
  json["layer_types"] = {"full_attention", "full_attention"};
  json["rope_parameters"] = {{"rope_type", "default"}, {"rope_theta", 2e4}};
  EXPECT_EQ(ParseOk(json).rope_theta, 2e4);
  json["rope_theta"] = 3e4;
  EXPECT_THAT(ErrorOf(ParseHfConfig(json.dump())), HasSubstr("rope_parameters.rope_theta is"));
}

// A file may say in several ways, and more than once, that nothing is scaled.
TEST(HfConfigTest, RopeThatIsNotScaledIsAcceptedUnderEitherName) {
  for (const char* field : {"rope_scaling", "rope_parameters"}) {
    for (const char* value :
         {"{}", "null", R"({"type":"default"})", R"({"rope_type":"default"})",
          R"({"rope_type":"default","type":"default"})", R"({"rope_type":null,"factor":1.0})",
          R"({"rope_type":"default","rope_theta":10000.0})"}) {
      Json json = Llama2Hf();
      json["rope_theta"] = 1e4;
      json[field] = Json::parse(value);
      EXPECT_EQ(ParseOk(json).rope_theta, 1e4) << field << " " << value;
    }
    Json json = Llama2Hf();
    json.erase("rope_theta");
    json[field] = {{"type", "default"}, {"rope_theta", 5e5}};
    EXPECT_EQ(ParseOk(json).rope_theta, 5e5) << field;
  }
}

TEST(HfConfigTest, RopeThetasThatDisagreeAreNamed) {
  Json json = Llama2Hf();
  json["rope_theta"] = 1e4;
  json["rope_scaling"] = {{"rope_type", "default"}, {"rope_theta", 5e5}};
  EXPECT_THAT(ErrorOf(ParseHfConfig(json.dump())),
              HasSubstr("rope_theta is 10000 but rope_scaling.rope_theta is 500000"));
  json.erase("rope_theta");
  json["rope_parameters"] = {{"rope_theta", 1e6}};
  EXPECT_THAT(
      ErrorOf(ParseHfConfig(json.dump())),
      HasSubstr("rope_parameters.rope_theta is 1e+06 but rope_scaling.rope_theta is 500000"));
}

TEST(HfConfigTest, ReadsEosListTiedEmbeddingsAndHeadDim) {
  Json json = Llama2Hf();
  json["eos_token_id"] = {2, 7};
  json["tie_word_embeddings"] = true;
  json["head_dim"] = 64;
  const ModelConfig config = ParseOk(json);
  EXPECT_THAT(config.eos_ids, ElementsAre(2, 7));
  EXPECT_TRUE(config.tie_word_embeddings);
  EXPECT_EQ(config.head_dim, 64);
}

TEST(HfConfigTest, MissingTokenIdsAreNoted) {
  Json json = CodeLlamaHf();
  json.erase("bos_token_id");
  json["eos_token_id"] = nullptr;
  const ModelConfig config = ParseOk(json);
  EXPECT_EQ(config.bos_id, 1);
  EXPECT_THAT(config.eos_ids, ElementsAre(2));
  EXPECT_EQ(config.notes.size(), 2u);
}

TEST(MistralParamsTest, RefusesWhatItDoesNotKnow) {
  const std::pair<const char*, const char*> fields[] = {
      {"moe", R"({"num_experts":8})"}, {"lora", R"({"rank":64})"},
      {"vision_encoder", "{}"},        {"quantization", R"({"qformat":"fp8"})"},
      {"yarn", R"({"factor":16})"},    {"model_type", "\"mamba\""},
      {"activation", "\"gelu\""},      {"_sliding_window", "[1]"},
      {"something_new", "1"}};
  for (const auto& [field, value] : fields) {
    Json params = MistralV01Params();
    params[field] = Json::parse(value);
    EXPECT_THAT(ErrorOf(ParseMistralParams(params.dump())),
                HasSubstr(absl::StrCat("params.json: ", field, " is ")));
  }
}

// Meta's own params.json leaves out the FFN width and says vocab_size -1.
TEST(MistralParamsTest, RefusesMetasFile) {
  EXPECT_THAT(ErrorOf(ParseMistralParams(
                  R"({"dim":6656,"n_heads":52,"n_layers":60,"norm_eps":1e-06,"vocab_size":-1})")),
              HasSubstr("hidden_dim is missing"));
}

TEST(MistralParamsTest, ReadsContextLengthAndTiedEmbeddings) {
  Json params = MistralV01Params();
  params["max_position_embeddings"] = 65536;
  params["tied_embeddings"] = true;
  EXPECT_EQ(ParseParamsOk(params).max_position, 65536);
  EXPECT_TRUE(ParseParamsOk(params).tie_word_embeddings);
}

TEST(ConfigTextTest, RefusesWhatIsNotAnObject) {
  for (const char* text : {"", " ", "[]", "1", "\"x\"", "null", "{", "{]", "{\"a\":}", "\xff"}) {
    ErrorOf(ParseHfConfig(text));
    ErrorOf(ParseMistralParams(text));
  }
}

TEST(ConfigTextTest, RefusesHugeDeepAndAmbiguousJson) {
  EXPECT_THAT(ErrorOf(ParseHfConfig(std::string(kMaxJsonBytes + 1, ' '))), HasSubstr("the limit"));
  EXPECT_THAT(ErrorOf(ParseHfConfig(std::string(1'000'000, '['))),
              HasSubstr("nested 1000000 deep"));
  EXPECT_THAT(ErrorOf(ParseHfConfig(R"({"a":1,"b":{"c":2,"c":3}})")),
              HasSubstr("\"c\" appears twi"));
  EXPECT_THAT(ErrorOf(ParseHfConfig(absl::string_view("{}\0{", 4))), HasSubstr("NUL byte"));
  EXPECT_THAT(ErrorOf(ParseHfConfig(R"({"a":1e999})")), HasSubstr("not valid JSON"));
}

TEST(ConfigTextTest, LongValuesAreShortenedInMessages) {
  Json json = Llama2Hf();
  json["hidden_act"] = std::string(100'000, 'x');
  EXPECT_LT(ErrorOf(ParseHfConfig(json.dump())).size(), 300u);
}

TEST(ConfigTextTest, WrittenConfigsParseBack) {
  ModelConfig config = TinyConfig();
  EXPECT_EQ(ParseOk(Json::parse(ToHfConfigJson(config, "float32"))), config);
  EXPECT_EQ(ParseParamsOk(Json::parse(ToMistralParamsJson(config))), config);
  config.sliding_window = 64;
  config.tie_word_embeddings = true;
  config.norm_eps = 1e-6;
  EXPECT_EQ(ParseOk(Json::parse(ToHfConfigJson(config, "float32"))), config);
  EXPECT_EQ(ParseParamsOk(Json::parse(ToMistralParamsJson(config))), config);
  config.architecture = "llama";
  config.eos_ids = {2, 3};
  EXPECT_EQ(ParseOk(Json::parse(ToHfConfigJson(config, "float32"))), config);
}

TEST(ConfigTextTest, ParameterCountIsTheSumOfTheShapes) {
  ModelConfig config = TinyConfig();
  for (const bool tied : {false, true}) {
    config.tie_word_embeddings = tied;
    int64_t sum = 0;
    for (const TensorId id : AllTensors(config)) {
      sum += ShapeOf(config, id).n_rows * ShapeOf(config, id).n_cols;
    }
    EXPECT_EQ(ParameterCount(config), sum);
  }
}

}  // namespace
}  // namespace bora

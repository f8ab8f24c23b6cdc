#include <algorithm>
#include <cmath>
#include <initializer_list>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "model/config.h"
#include "model/json.h"

namespace bora {
namespace {

using Json = nlohmann::json;

// Context length if params.json has none, as in v0.1 and v0.2: every Mistral 7B was published for
// 32768 tokens.
constexpr int64_t kMistralMaxPosition = 32768;

// A JSON value as text, cut to 80 characters, for error messages and logs.
std::string Shown(const Json& value) {
  std::string text = value.dump(-1, ' ', true, Json::error_handler_t::replace);
  if (text.size() > 80) text = absl::StrCat(text.substr(0, 77), "...");
  return text;
}

// Typed access to the top-level fields of a config. After an error its functions return 0 or
// nullopt, and status() keeps the first error, so that the readers of fields need no error handling
// of their own. Owned by one thread.
class FieldReader {
 public:
  // `object` must outlive the reader; `file` is the name for messages.
  FieldReader(const Json& object, std::string file) : object_(object), file_(std::move(file)) {}

  const std::string& file() const { return file_; }
  const absl::Status& status() const { return status_; }

  // The field's value; nullptr if the field is missing or null.
  const Json* Find(const char* field) const {
    const auto it = object_.find(field);
    return it == object_.end() || it->is_null() ? nullptr : &*it;
  }
  // Whether the field is there, even as null.
  bool IsPresent(const char* field) const { return object_.contains(field); }

  // Keeps the message unless there was an error before.
  void Fail(const std::string& message) {
    if (status_.ok()) status_ = absl::InvalidArgumentError(absl::StrCat(file_, ": ", message));
  }

  // The value of a required field (Int, Double) or of an optional one (OptionalInt, OptionalBool:
  // nullopt if it is missing or null).
  int64_t Int(const char* field) {
    const Json* value = Find(field);
    if (value == nullptr) {
      Fail(absl::StrCat(field, " is missing"));
      return 0;
    }
    return ToInt(field, *value);
  }

  std::optional<int64_t> OptionalInt(const char* field) {
    const Json* value = Find(field);
    if (value == nullptr) return std::nullopt;
    return ToInt(field, *value);
  }

  // Convert the value of `field`. An integer beyond int64, which JSON may have, is an error.
  int64_t ToInt(const char* field, const Json& value) {
    const bool fits =
        value.is_number_integer() && (!value.is_number_unsigned() ||
                                      value.get<uint64_t>() <= std::numeric_limits<int64_t>::max());
    if (!fits) {
      Fail(absl::StrCat(field, " is ", Shown(value), ", must be an integer"));
      return 0;
    }
    return value.get<int64_t>();
  }

  double ToDouble(const char* field, const Json& value) {
    if (!value.is_number()) {
      Fail(absl::StrCat(field, " is ", Shown(value), ", must be a number"));
      return 0;
    }
    return value.get<double>();
  }

  double Double(const char* field) {
    const Json* value = Find(field);
    if (value == nullptr) {
      Fail(absl::StrCat(field, " is missing"));
      return 0;
    }
    return ToDouble(field, *value);
  }

  std::optional<bool> OptionalBool(const char* field) {
    const Json* value = Find(field);
    if (value == nullptr) return std::nullopt;
    if (!value->is_boolean()) {
      Fail(absl::StrCat(field, " is ", Shown(*value), ", must be true or false"));
      return std::nullopt;
    }
    return value->get<bool>();
  }

  // Fails if the field has a value other than null, false and `neutral` (unless that is null).
  void RefuseUnlessNeutral(const char* field, const Json& neutral = nullptr) {
    const Json* value = Find(field);
    if (value == nullptr || *value == Json(false)) return;
    if (!neutral.is_null() && *value == neutral) return;
    Fail(absl::StrCat(field, " is ", Shown(*value), ", which is not supported"));
  }

 private:
  const Json& object_;
  std::string file_;
  absl::Status status_;
};

// Parses `text`, which must be a JSON object. Errors begin with the file's name.
absl::StatusOr<Json> ParseObject(absl::string_view text, const char* file) {
  absl::StatusOr<Json> json = ParseJson(text);
  if (!json.ok()) return Annotate(json.status(), file);
  if (!json->is_object()) {
    return absl::InvalidArgumentError(absl::StrCat(file, ": must be a JSON object"));
  }
  return json;
}

// "mistral" or "llama", from the fields model_type and architectures, which must agree if both are
// there.
std::string ReadArchitecture(FieldReader& reader) {
  std::string from_class;
  if (const Json* list = reader.Find("architectures")) {
    const bool one = list->is_array() && list->size() == 1;
    if (one && list->front() == "MistralForCausalLM") from_class = "mistral";
    if (one && (list->front() == "LlamaForCausalLM" || list->front() == "LLaMAForCausalLM")) {
      from_class = "llama";
    }
    if (from_class.empty()) {
      reader.Fail(absl::StrCat("architectures is ", Shown(*list),
                               ", supported are MistralForCausalLM and LlamaForCausalLM"));
    }
  }
  const Json* type = reader.Find("model_type");
  if (type == nullptr) {
    if (from_class.empty()) reader.Fail("neither model_type nor architectures is there");
    return from_class;
  }
  if (*type != "mistral" && *type != "llama") {
    reader.Fail(absl::StrCat("model_type is ", Shown(*type), ", supported are mistral and llama"));
    return from_class;
  }
  if (!from_class.empty() && *type != from_class) {
    reader.Fail(
        absl::StrCat("model_type is ", Shown(*type), " but architectures says ", from_class));
  }
  return type->get<std::string>();
}

// Fails for every feature that changes the computation and is not implemented.
void RefuseUnsupportedHf(FieldReader& reader) {
  if (const Json* act = reader.Find("hidden_act"); act != nullptr && *act != "silu") {
    reader.Fail(
        absl::StrCat("hidden_act is ", Shown(*act), ", which is not supported: must be silu"));
  }
  reader.RefuseUnlessNeutral("partial_rotary_factor", 1.0);
  for (const char* field : {"quantization_config",
                            "compression_config",
                            "attention_bias",
                            "mlp_bias",
                            "qkv_bias",
                            "use_bias",
                            "num_local_experts",
                            "num_experts",
                            "n_routed_experts",
                            "use_qk_norm",
                            "qk_norm",
                            "clip_qkv",
                            "logits_scaling",
                            "logit_scale",
                            "residual_multiplier",
                            "embedding_multiplier",
                            "attention_multiplier",
                            "query_pre_attn_scalar",
                            "final_logit_softcapping",
                            "attn_logit_softcapping",
                            "no_rope_layers",
                            "auto_map"}) {
    reader.RefuseUnlessNeutral(field);
  }
  if (const Json* types = reader.Find("layer_types")) {
    const bool all_full =
        types->is_array() && std::all_of(types->begin(), types->end(),
                                         [](const Json& t) { return t == "full_attention"; });
    if (!all_full) {
      reader.Fail(absl::StrCat("layer_types is ", Shown(*types),
                               ", supported is full_attention in every layer"));
    }
  }
}

// Whether `rope` describes the plain rotary embedding over the whole head: its type is "default" or
// missing, and no other key changes a frequency. rope_theta is allowed; the caller reads it.
bool IsDefaultRope(const Json& rope) {
  if (!rope.is_object()) return false;
  for (const auto& [key, value] : rope.items()) {
    // original_max_position_embeddings matters only to scaled embeddings.
    const bool is_neutral = value.is_null() || key == "rope_theta" ||
                            key == "original_max_position_embeddings" ||
                            ((key == "rope_type" || key == "type") && value == "default") ||
                            ((key == "partial_rotary_factor" || key == "factor") && value == 1.0);
    if (!is_neutral) return false;
  }
  return true;
}

// Reads rope_theta from the top level, from rope_parameters (newer files) or from rope_scaling. If
// it is in several places, the values must agree.
double ReadHfRopeTheta(FieldReader& reader, ModelConfig& config) {
  std::optional<double> theta;
  std::string theta_field = "rope_theta";
  if (reader.Find("rope_theta") != nullptr) theta = reader.Double("rope_theta");
  for (const char* field : {"rope_parameters", "rope_scaling"}) {
    const Json* rope = reader.Find(field);
    if (rope == nullptr || *rope == Json(false)) continue;
    if (!IsDefaultRope(*rope)) {
      reader.Fail(absl::StrCat(field, " is ", Shown(*rope),
                               ", supported is rope_type default over all of the head"));
      return 0;
    }
    const auto inner = rope->find("rope_theta");
    if (inner == rope->end() || inner->is_null()) continue;
    const std::string inner_field = absl::StrCat(field, ".rope_theta");
    const double inner_theta = reader.ToDouble(inner_field.c_str(), *inner);
    if (theta.has_value() && *theta != inner_theta) {
      reader.Fail(
          absl::StrCat(theta_field, " is ", *theta, " but ", inner_field, " is ", inner_theta));
    }
    theta = inner_theta;
    theta_field = inner_field;
  }
  if (theta.has_value()) return *theta;
  if (config.architecture == "llama") {
    config.notes.push_back(
        "config.json has no rope_theta: 10000, as for every Llama published before that field");
    return 1e4;
  }
  return reader.Double("rope_theta");
}

// Fills bos_id and eos_ids; eos_token_id may be one id or a list.
void ReadTokenIds(FieldReader& reader, ModelConfig& config) {
  const auto narrow = [&reader](const char* field, int64_t id) {
    if (id < 0 || id >= kMaxVocabSize) {
      reader.Fail(absl::StrCat(field, " is ", id, ", must be in [0, vocab_size)"));
      return int32_t{0};
    }
    return static_cast<int32_t>(id);
  };
  if (const auto id = reader.OptionalInt("bos_token_id")) {
    config.bos_id = narrow("bos_token_id", *id);
  } else {
    config.notes.push_back("config.json has no bos_token_id: 1");
  }
  const Json* eos = reader.Find("eos_token_id");
  if (eos == nullptr) {
    config.notes.push_back("config.json has no eos_token_id: 2");
    return;
  }
  config.eos_ids.clear();
  if (!eos->is_array()) {
    config.eos_ids.push_back(narrow("eos_token_id", reader.ToInt("eos_token_id", *eos)));
    return;
  }
  for (const Json& id : *eos) {
    config.eos_ids.push_back(narrow("eos_token_id", reader.ToInt("eos_token_id", id)));
    if (!reader.status().ok()) return;
  }
}

// The context length, in tokens. max_sequence_length is the field's name in the first LLaMA
// conversions.
int64_t ReadHfMaxPosition(FieldReader& reader) {
  if (const auto value = reader.OptionalInt("max_position_embeddings")) return *value;
  if (const auto value = reader.OptionalInt("max_sequence_length")) return *value;
  reader.Fail("max_position_embeddings is missing");
  return 0;
}

// Reads heads, head size and sliding window. A missing field means something different for each
// architecture.
void ReadHfAttention(FieldReader& reader, ModelConfig& config) {
  const bool is_llama = config.architecture == "llama";
  config.n_heads = reader.Int("num_attention_heads");
  if (is_llama && reader.Find("num_key_value_heads") == nullptr) {
    config.n_kv_heads = config.n_heads;
    config.notes.push_back("config.json has no num_key_value_heads: as many as attention heads");
  } else {
    config.n_kv_heads = reader.Int("num_key_value_heads");
  }
  // Both architectures define a missing head_dim as hidden_size / num_attention_heads.
  if (const auto head_dim = reader.OptionalInt("head_dim")) {
    config.head_dim = *head_dim;
  } else if (config.n_heads > 0 && config.dim % config.n_heads == 0) {
    config.head_dim = config.dim / config.n_heads;
  } else {
    reader.Fail(absl::StrCat("head_dim is missing and num_attention_heads ", config.n_heads,
                             " does not divide hidden_size ", config.dim));
  }
  config.sliding_window = reader.OptionalInt("sliding_window");
  if (!is_llama && !reader.IsPresent("sliding_window")) {
    // The default of Hugging Face's class is 4096, while newer models want null: no guess is safe.
    reader.Fail(
        "sliding_window is missing: write null for full attention, or the window in tokens");
  }
}

// Returns the config if it was read without error and is valid; else the error, with the file's
// name.
absl::StatusOr<ModelConfig> Finish(const FieldReader& reader, ModelConfig config) {
  RETURN_IF_ERROR(reader.status());
  RETURN_IF_ERROR(Annotate(Validate(config), reader.file()));
  return config;
}

// Fails for every unknown key, unless it is null or false, and for known keys with unsupported
// values.
void RefuseUnsupportedMistral(const Json& json, FieldReader& reader) {
  // params.json has few keys, and any of them may change the computation, so unknown keys are
  // refused.
  static constexpr const char* kKnown[] = {
      "dim",         "n_layers",       "head_dim",        "hidden_dim",
      "n_heads",     "n_kv_heads",     "norm_eps",        "vocab_size",
      "rope_theta",  "sliding_window", "model_type",      "max_position_embeddings",
      "max_seq_len", "max_batch_size", "tied_embeddings", "activation"};
  for (const auto& [key, value] : json.items()) {
    const bool known = std::find(std::begin(kKnown), std::end(kKnown), key) != std::end(kKnown);
    if (!known) reader.RefuseUnlessNeutral(key.c_str());
  }
  reader.RefuseUnlessNeutral("model_type", "transformer");
  reader.RefuseUnlessNeutral("activation", "silu");
}

}  // namespace

absl::StatusOr<ModelConfig> ParseHfConfig(absl::string_view text) {
  ASSIGN_OR_RETURN(const Json json, ParseObject(text, "config.json"));
  FieldReader reader(json, "config.json");
  ModelConfig config;
  config.architecture = ReadArchitecture(reader);
  RETURN_IF_ERROR(reader.status());
  RefuseUnsupportedHf(reader);
  config.dim = reader.Int("hidden_size");
  config.hidden_dim = reader.Int("intermediate_size");
  config.n_layers = reader.Int("num_hidden_layers");
  config.vocab_size = reader.Int("vocab_size");
  config.norm_eps = reader.Double("rms_norm_eps");
  RETURN_IF_ERROR(reader.status());
  ReadHfAttention(reader, config);
  config.max_position = ReadHfMaxPosition(reader);
  config.rope_theta = ReadHfRopeTheta(reader, config);
  config.tie_word_embeddings = reader.OptionalBool("tie_word_embeddings").value_or(false);
  ReadTokenIds(reader, config);
  return Finish(reader, std::move(config));
}

absl::StatusOr<ModelConfig> ParseMistralParams(absl::string_view text) {
  ASSIGN_OR_RETURN(const Json json, ParseObject(text, "params.json"));
  FieldReader reader(json, "params.json");
  RefuseUnsupportedMistral(json, reader);
  ModelConfig config;
  config.architecture = "mistral";
  config.dim = reader.Int("dim");
  config.hidden_dim = reader.Int("hidden_dim");
  config.n_layers = reader.Int("n_layers");
  config.n_heads = reader.Int("n_heads");
  config.n_kv_heads = reader.Int("n_kv_heads");
  config.head_dim = reader.Int("head_dim");
  config.vocab_size = reader.Int("vocab_size");
  config.norm_eps = reader.Double("norm_eps");
  config.sliding_window = reader.OptionalInt("sliding_window");
  config.tie_word_embeddings = reader.OptionalBool("tied_embeddings").value_or(false);
  if (reader.Find("rope_theta") != nullptr) {
    config.rope_theta = reader.Double("rope_theta");
  } else {
    config.rope_theta = config.sliding_window.has_value() ? 1e4 : 1e6;
    config.notes.push_back(absl::StrCat("params.json has no rope_theta: ", config.rope_theta,
                                        config.sliding_window.has_value()
                                            ? ", since it sets sliding_window"
                                            : ", since it sets no sliding_window"));
  }
  if (const auto value = reader.OptionalInt("max_position_embeddings")) {
    config.max_position = *value;
  } else if (const auto length = reader.OptionalInt("max_seq_len")) {
    config.max_position = *length;
  } else {
    config.max_position = kMistralMaxPosition;
    config.notes.push_back(
        absl::StrCat("params.json has no context length: ", kMistralMaxPosition, " tokens"));
  }
  config.notes.push_back("params.json has no token ids: bos 1, eos 2");
  return Finish(reader, std::move(config));
}

std::string ToHfConfigJson(const ModelConfig& config, absl::string_view torch_dtype) {
  nlohmann::ordered_json json;
  const bool is_mistral = config.architecture == "mistral";
  json["architectures"] = {is_mistral ? "MistralForCausalLM" : "LlamaForCausalLM"};
  json["model_type"] = config.architecture;
  json["hidden_size"] = config.dim;
  json["intermediate_size"] = config.hidden_dim;
  json["num_hidden_layers"] = config.n_layers;
  json["num_attention_heads"] = config.n_heads;
  json["num_key_value_heads"] = config.n_kv_heads;
  json["head_dim"] = config.head_dim;
  json["vocab_size"] = config.vocab_size;
  json["max_position_embeddings"] = config.max_position;
  json["rope_theta"] = config.rope_theta;
  json["rms_norm_eps"] = config.norm_eps;
  json["hidden_act"] = "silu";
  if (config.sliding_window.has_value()) {
    json["sliding_window"] = *config.sliding_window;
  } else if (is_mistral) {
    json["sliding_window"] = nullptr;
  }
  json["tie_word_embeddings"] = config.tie_word_embeddings;
  json["bos_token_id"] = config.bos_id;
  if (config.eos_ids.size() == 1) {
    json["eos_token_id"] = config.eos_ids.front();
  } else {
    json["eos_token_id"] = config.eos_ids;
  }
  json["torch_dtype"] = std::string(torch_dtype);
  return absl::StrCat(json.dump(2), "\n");
}

std::string ToMistralParamsJson(const ModelConfig& config) {
  nlohmann::ordered_json json;
  json["dim"] = config.dim;
  json["n_layers"] = config.n_layers;
  json["head_dim"] = config.head_dim;
  json["hidden_dim"] = config.hidden_dim;
  json["n_heads"] = config.n_heads;
  json["n_kv_heads"] = config.n_kv_heads;
  json["norm_eps"] = config.norm_eps;
  json["vocab_size"] = config.vocab_size;
  json["rope_theta"] = config.rope_theta;
  json["max_position_embeddings"] = config.max_position;
  if (config.sliding_window.has_value()) json["sliding_window"] = *config.sliding_window;
  if (config.tie_word_embeddings) json["tied_embeddings"] = true;
  return absl::StrCat(json.dump(2), "\n");
}

}  // namespace bora

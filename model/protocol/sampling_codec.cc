#include "model/protocol/sampling_codec.h"

#include <google/protobuf/descriptor.h>
#include <google/protobuf/message.h>

#include <array>
#include <cstddef>
#include <cstdint>

#include "base/check.h"
#include "model/step/sampling_fields.h"

namespace bora {
namespace {

namespace pb = worker::v1alpha1;
using google::protobuf::FieldDescriptor;
using google::protobuf::Reflection;

using Descriptors = std::array<const FieldDescriptor*, kNumSamplingFields>;

// Returns the message's field for each entry of kSamplingFields, in the order of that list. They
// are looked up by name only once, since a lookup costs more than the copy of the value.
// CHECK-fails if the message lacks one.
const Descriptors& FieldsOfMessage() {
  static const Descriptors descriptors = [] {
    Descriptors found;
    size_t i = 0;
    ForEachSamplingField([&](const auto& field) {
      found[i] = pb::SamplingParams::descriptor()->FindFieldByName(field.name);
      CHECK(found[i] != nullptr) << field.name;
      ++i;
    });
    return found;
  }();
  return descriptors;
}

// Set and Get copy one field; the overloads choose protobuf's function for its type.
void Set(const Reflection& reflection, const FieldDescriptor* field, float value,
         pb::SamplingParams* proto) {
  reflection.SetFloat(proto, field, value);
}

void Set(const Reflection& reflection, const FieldDescriptor* field, int32_t value,
         pb::SamplingParams* proto) {
  reflection.SetInt32(proto, field, value);
}

void Get(const Reflection& reflection, const FieldDescriptor* field,
         const pb::SamplingParams& proto, float* value) {
  *value = reflection.GetFloat(proto, field);
}

void Get(const Reflection& reflection, const FieldDescriptor* field,
         const pb::SamplingParams& proto, int32_t* value) {
  *value = reflection.GetInt32(proto, field);
}

}  // namespace

void WriteSampling(const SamplingParams& sampling, pb::SamplingParams* proto) {
  const Reflection& reflection = *pb::SamplingParams::GetReflection();
  auto descriptor = FieldsOfMessage().begin();
  ForEachSamplingField(
      [&](const auto& field) { Set(reflection, *descriptor++, sampling.*field.member, proto); });
  proto->set_seed(sampling.seed);
  proto->set_n_logprobs(sampling.n_logprobs);
  proto->set_n_prompt_logprobs(sampling.n_prompt_logprobs);
  proto->set_min_tokens(sampling.min_tokens);
  proto->mutable_stop_token_ids()->Add(sampling.stop_token_ids.begin(),
                                       sampling.stop_token_ids.end());
}

SamplingParams ReadSampling(const pb::SamplingParams& proto) {
  const Reflection& reflection = *pb::SamplingParams::GetReflection();
  SamplingParams sampling;
  auto descriptor = FieldsOfMessage().begin();
  ForEachSamplingField(
      [&](const auto& field) { Get(reflection, *descriptor++, proto, &(sampling.*field.member)); });
  sampling.seed = proto.seed();
  sampling.n_logprobs = proto.n_logprobs();
  sampling.n_prompt_logprobs = proto.n_prompt_logprobs();
  sampling.min_tokens = proto.min_tokens();
  sampling.stop_token_ids.assign(proto.stop_token_ids().begin(), proto.stop_token_ids().end());
  return sampling;
}

}  // namespace bora

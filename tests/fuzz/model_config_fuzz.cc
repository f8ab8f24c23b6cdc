// Any text is either refused or gives a config that is valid and survives being written and read.
#include "base/check.h"
#include "model/config.h"
#include "model/planning/partition.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t n_bytes) {
  const absl::string_view text(reinterpret_cast<const char*>(data), n_bytes);
  for (const bool is_hf : {true, false}) {
    const auto config = is_hf ? bora::ParseHfConfig(text) : bora::ParseMistralParams(text);
    if (!config.ok()) continue;
    CHECK_OK(bora::Validate(*config));
    CHECK(bora::ParameterCount(*config) > 0);
    CHECK_OK(bora::MakePartition(*config, 1, 1).status());
    const auto again = is_hf ? bora::ParseHfConfig(bora::ToHfConfigJson(*config, "bfloat16"))
                             : bora::ParseMistralParams(bora::ToMistralParamsJson(*config));
    CHECK_OK(again.status());
    CHECK(*again == *config);
  }
  return 0;
}

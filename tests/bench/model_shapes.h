// Sizes of models whose weights are made up, by name.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "model/config.h"

namespace bora {

// 7b, 1b, tiny64, tiny or demo. INVALID_ARGUMENT for another name.
absl::StatusOr<ModelConfig> ConfigOfShape(const std::string& name);

}  // namespace bora

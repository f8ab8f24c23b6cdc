// JSON files that Bora did not write, parsed with limits and without exceptions.
#pragma once

#include <cstddef>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace bora {

// The index of the largest published checkpoint of this family is below 100 KB.
inline constexpr size_t kMaxJsonBytes = size_t{16} << 20;
inline constexpr int kMaxJsonDepth = 64;

// Parses a whole JSON text. INVALID_ARGUMENT when it is larger than kMaxJsonBytes, nested deeper
// than kMaxJsonDepth, not JSON, not UTF-8, or has an object with the same key twice.
absl::StatusOr<nlohmann::json> ParseJson(absl::string_view text);

// Reads a whole regular file of at most max_bytes. Errors start with the path; NOT_FOUND when there
// is no such file, INVALID_ARGUMENT when it is a Git LFS pointer to one.
absl::StatusOr<std::string> ReadSmallFile(const std::string& path, size_t max_bytes);

// Names of what the directory holds, ascending; none when it cannot be read.
std::vector<std::string> ListFileNames(const std::string& dir);

}  // namespace bora

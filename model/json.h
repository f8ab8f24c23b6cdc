// Reads JSON files of other programs, with limits and without exceptions.
#pragma once

#include <cstddef>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace bora {

// Limit of a JSON text in bytes. The index of the largest published checkpoint of this family is
// below 100 KB.
inline constexpr size_t kMaxJsonBytes = size_t{16} << 20;
// Limit of the nesting of objects and arrays.
inline constexpr int kMaxJsonDepth = 64;

// Parses a whole JSON text. INVALID_ARGUMENT if the text is larger than kMaxJsonBytes, nested
// deeper than kMaxJsonDepth, not valid JSON or UTF-8, or has an object with the same key twice (of
// which other parsers would silently take one).
absl::StatusOr<nlohmann::json> ParseJson(absl::string_view text);

// Reads the whole of a regular file. The result has at most max_bytes. Errors begin with the path:
// NOT_FOUND if the file does not exist, INVALID_ARGUMENT if it is too large, no regular file, or a
// Git LFS pointer; other codes for errors of the system.
absl::StatusOr<std::string> ReadSmallFile(const std::string& path, size_t max_bytes);

// The names of all entries of the folder `dir`, ascending; empty if it cannot be read.
std::vector<std::string> ListFileNames(const std::string& dir);

}  // namespace bora

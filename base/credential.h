// The secret that coordinator and workers share, as both programs read it.
#pragma once

#include <cstdlib>
#include <fstream>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

namespace bora {

// The first line of the file at `path`, without blanks around it; with an empty path the
// environment variable BORA_WORKER_CREDENTIAL, empty where there is none. NOT_FOUND names `flag`,
// where the path came from, if the file has no such line.
inline absl::StatusOr<std::string> ReadCredential(absl::string_view flag, const std::string& path) {
  if (path.empty()) {
    const char* value = std::getenv("BORA_WORKER_CREDENTIAL");
    return std::string(value == nullptr ? "" : value);
  }
  std::ifstream file(path);
  std::string line;
  if (!std::getline(file, line) || absl::StripAsciiWhitespace(line).empty()) {
    return absl::NotFoundError(absl::StrCat(flag, " ", path, " has no first line"));
  }
  return std::string(absl::StripAsciiWhitespace(line));
}

}  // namespace bora

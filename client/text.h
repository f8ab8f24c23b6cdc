// Small text helpers that several commands share.
#pragma once

#include <google/protobuf/duration.pb.h>

#include <iostream>
#include <iterator>
#include <string>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

namespace bora {

// Returns `token` in double quotes. Newlines, control characters and bytes that are not UTF-8 are
// escaped as in C.
inline std::string Quoted(absl::string_view token) {
  return absl::StrCat("\"", absl::Utf8SafeCEscape(token), "\"");
}

// Returns a protobuf duration in seconds.
inline double Seconds(const google::protobuf::Duration& duration) {
  return static_cast<double>(duration.seconds()) + duration.nanos() * 1e-9;
}

// Returns all of standard input. Blocks until its end.
inline std::string ReadStandardInput() {
  return std::string(std::istreambuf_iterator<char>(std::cin), std::istreambuf_iterator<char>());
}

}  // namespace bora

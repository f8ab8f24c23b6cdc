// RETURN_IF_ERROR and ASSIGN_OR_RETURN for absl::Status and absl::StatusOr, which this Abseil
// lacks.
#pragma once

#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

namespace bora {

// The same status code with "<context>: " before the message. An OK status stays OK.
inline absl::Status Annotate(const absl::Status& status, absl::string_view context) {
  if (status.ok()) return status;
  return absl::Status(status.code(), absl::StrCat(context, ": ", status.message()));
}

}  // namespace bora

#define BORA_CONCAT_INNER(a, b) a##b
#define BORA_CONCAT(a, b) BORA_CONCAT_INNER(a, b)

// Evaluates `expression`, an absl::Status, and returns it from the enclosing function unless it is
// OK.
#define RETURN_IF_ERROR(expression)            \
  do {                                         \
    absl::Status bora_status = (expression);   \
    if (!bora_status.ok()) return bora_status; \
  } while (false)

// ASSIGN_OR_RETURN(auto x, F()): F() gives an absl::StatusOr. Returns its status from the enclosing
// function if it is not OK; otherwise moves its value into x. Expands to several statements, so it
// cannot be the body of an `if` without braces.
#define ASSIGN_OR_RETURN(lhs, expression) \
  BORA_ASSIGN_OR_RETURN_INNER(BORA_CONCAT(bora_statusor_, __LINE__), lhs, expression)
#define BORA_ASSIGN_OR_RETURN_INNER(statusor, lhs, expression) \
  auto statusor = (expression);                                \
  if (!statusor.ok()) return statusor.status();                \
  lhs = std::move(statusor).value()

// The errors that calls of the public API end with, except the refusals of single fields
// (violations.h, request_validator.h) and the engine's own.
#pragma once

#include <cstdint>

#include "absl/time/time.h"
#include "coordinator/api/api_error.h"

namespace bora {

// RESOURCE_EXHAUSTED with LIMIT_EXCEEDED: the metadata of a call have n_bytes, more than
// kMaxMetadataBytes.
ApiError MetadataTooLarge(int64_t n_bytes);

// RESOURCE_EXHAUSTED with LIMIT_EXCEEDED: a request has n_bytes, or at least n_bytes unless
// `exact`, more than kMaxMessageBytes.
ApiError MessageTooLarge(int64_t n_bytes, bool exact);

// INVALID_ARGUMENT with LIMIT_EXCEEDED: the answer would have n_bytes, more than kMaxMessageBytes.
ApiError AnswerTooLarge(int64_t n_bytes);

// RESOURCE_EXHAUSTED with SLOW_CONSUMER: the client has not read a message for `timeout`, and
// n_buffered_bytes wait behind it.
ApiError SlowConsumer(int64_t n_buffered_bytes, absl::Duration timeout);

}  // namespace bora

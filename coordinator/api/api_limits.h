// Limits of the public API that do not depend on the model. A request beyond a limit is refused
// with LIMIT_EXCEEDED unless the comment says otherwise. ModelService reports most of them.
#pragma once

#include <cstdint>

namespace bora {

inline constexpr int32_t kMaxStopSequences = 16;
inline constexpr int32_t kMaxStopSequenceCodePoints = 256;
inline constexpr int32_t kMaxBatchInputs = 128;    // texts of Tokenize, inputs of Detokenize
inline constexpr int32_t kMaxRequestIdBytes = 64;  // longer ids are INVALID_FIELD
inline constexpr int32_t kMaxCacheSaltBytes = 64;
inline constexpr int32_t kMaxTenantBytes = 64;  // longer names are INVALID_FIELD
inline constexpr int32_t kMaxCandidates = 16;   // of one request (n); more are INVALID_FIELD
// max_tokens of a request that does not set it, unless the model's generation_config.json has a
// default.
inline constexpr int32_t kDefaultMaxTokens = 256;
// The largest request and the largest answer. It is gRPC's default limit of the messages that a
// client receives; requests have the same limit.
inline constexpr int32_t kMaxMessageBytes = 4 << 20;
// The largest metadata of a call, counted as HTTP/2 does: names, values and 32 bytes per entry.
// That has room for a large token or a browser's cookies.
inline constexpr int32_t kMaxMetadataBytes = 16 << 10;
// Concurrent streams of one connection. A call beyond that is not refused: the client holds it back
// until another stream ends.
inline constexpr int32_t kMaxConnectionStreams = 256;
// A connection of this age takes no more calls, so that load balancers can move the client to
// another server. Running calls have the grace period to end; it is above the longest stream.
inline constexpr int32_t kMaxConnectionAgeS = 30 * 60;
inline constexpr int32_t kMaxConnectionGraceS = 10 * 60;
// A connection without a call is closed after this time.
inline constexpr int32_t kMaxConnectionIdleS = 5 * 60;
// The least time between two HTTP/2 pings of a client. The third ping that is too early ends the
// connection.
inline constexpr int32_t kMinPingIntervalS = 10;
// The longest text of a prompt, and of each input of Tokenize: a quarter of the largest message.
// For comparison: 32k tokens of English are about 130 kB.
inline constexpr int32_t kMaxPromptBytes = 1 << 20;
// The largest message of a stream: rule (e) of GenerateStream in docs/api.md.
inline constexpr int32_t kMaxStreamMessageBytes = 64 << 10;

}  // namespace bora

// Limits of the public API that do not depend on the model.
#pragma once

#include <cstdint>

namespace bora {

inline constexpr int32_t kMaxStopSequences = 16;
inline constexpr int32_t kMaxStopSequenceCodePoints = 256;
inline constexpr int32_t kMaxBatchInputs = 128;
inline constexpr int32_t kMaxRequestIdBytes = 64;
inline constexpr int32_t kMaxCacheSaltBytes = 64;
inline constexpr int32_t kMaxTenantBytes = 64;
inline constexpr int32_t kMaxCandidates = 16;
// StopOptions.max_tokens of a request that says nothing, for a model that says nothing either.
inline constexpr int32_t kDefaultMaxTokens = 256;
// gRPC's default for what a client receives; requests are held to the same.
inline constexpr int32_t kMaxMessageBytes = 4 << 20;
// Of a call's metadata, as HTTP/2 counts it: names, values and 32 bytes each. Room for a large
// token or a browser's cookies.
inline constexpr int32_t kMaxMetadataBytes = 16 << 10;
// Streams of one connection; a client that opens more waits for one to end.
inline constexpr int32_t kMaxConnectionStreams = 256;
// After this, and with this grace for calls that run, a connection is closed so that balancers can
// move it; the grace is above the longest stream.
inline constexpr int32_t kMaxConnectionAgeS = 30 * 60;
inline constexpr int32_t kMaxConnectionGraceS = 10 * 60;
// Without a call.
inline constexpr int32_t kMaxConnectionIdleS = 5 * 60;
// Between two pings of a client; the third that is early ends the connection.
inline constexpr int32_t kMinPingIntervalS = 10;
// A quarter of the largest message. 32k tokens of English are about 130 kB.
inline constexpr int32_t kMaxPromptBytes = 1 << 20;
// Rule (e) of GenerateStream.
inline constexpr int32_t kMaxStreamMessageBytes = 64 << 10;

}  // namespace bora

// Text that another process sent, made safe to keep, log and pass on.
#pragma once

#include <cstddef>
#include <string>

#include "absl/strings/string_view.h"

namespace bora {

// Of names (hosts, devices), bytes: Linux's host names have 64, a domain name's label 63.
inline constexpr size_t kMaxPeerNameBytes = 128;
// Of reasons, bytes. One goes to clients twice within one header block (message and details, base64
// and percent-encoded), of which gRPC's clients accept 8 KiB.
inline constexpr size_t kMaxPeerReasonBytes = 1024;

// The text with control characters and bytes that are not UTF-8 written as \xNN. At most max_bytes,
// >= 3: a longer text is cut between two characters and ends with "…".
std::string PeerText(absl::string_view text, size_t max_bytes);

}  // namespace bora

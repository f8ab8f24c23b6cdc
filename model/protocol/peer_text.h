// Text that another process sent, made safe to keep, to log and to pass on: short, printable,
// UTF-8.
#pragma once

#include <cstddef>
#include <string>

#include "absl/strings/string_view.h"

namespace bora {

// Most bytes of a name (of a host or a device). Linux limits host names to 64 bytes; a label of a
// domain name has at most 63.
inline constexpr size_t kMaxPeerNameBytes = 128;
// Most bytes of the reason of an error. A reason goes to clients twice within one header block, as
// message (percent-encoded) and in the details (base64), and gRPC's clients accept header blocks of
// 8 KiB.
inline constexpr size_t kMaxPeerReasonBytes = 1024;

// Returns `text` with control characters and bytes that are not UTF-8 replaced by \xNN. A result
// longer than max_bytes bytes is cut between two characters and ends with "…" (3 bytes, within
// max_bytes). REQUIRES: max_bytes >= 3 (CHECK). A pure function; linear in the shorter of text and
// max_bytes.
std::string PeerText(absl::string_view text, size_t max_bytes);

}  // namespace bora

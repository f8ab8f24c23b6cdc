// Keeps gRPC's listeners alive when the process is out of descriptors. gRPC 1.51 gives a listener
// up for ever when accept4 fails with EMFILE or ENFILE, while the service says SERVING; so the
// programs that link this have an accept4 of their own in front of libc's. Where libc's fails that
// way, it takes the connection with a descriptor that is kept for this, closes it, so that the
// client learns at once that there is no room, and says that nobody waits any more.
#pragma once

namespace bora {

// Keeps the descriptor. Call once, from main, before there are listeners.
void GuardAccept();

}  // namespace bora

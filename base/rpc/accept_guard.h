// Keeps gRPC's listeners alive when the process is out of descriptors. If accept4 fails with EMFILE
// or ENFILE, gRPC 1.51 stops listening for good, while health checks still say SERVING. Programs
// that link this library therefore use its accept4 instead of libc's. When the system call fails
// that way, this accept4 frees a spare descriptor, accepts the connection with it and closes the
// connection, so that the client sees a failure at once instead of a hang; then it tries again.
#pragma once

namespace bora {

// Opens the spare descriptor. Call once, from main, before the first listener.
void GuardAccept();

}  // namespace bora

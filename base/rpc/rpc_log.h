// Writes the log lines of gRPC's core and of protobuf to this process's log, in its format.
#pragma once

#include "base/log.h"

namespace bora {

// Installs the hooks. Call once, from main, after InitLog and before gRPC is used. A gRPC error
// becomes a line of `error_level`: most are failed connections, which are a peer's fault. At most
// one gRPC line is written in 50 ms; it tells how many were left out. Protobuf's lines are about
// malformed messages of peers and become debug lines, except fatal ones, which are errors. If the
// environment variable GRPC_VERBOSITY is set, all of gRPC's lines are written, whatever the log
// level.
void TakeOverRpcLogs(LogLevel error_level);

}  // namespace bora

// Lines of gRPC's core and of protobuf in this process's log, in its form.
#pragma once

#include "base/log.h"

namespace bora {

// Call once, from main, after InitLog and before gRPC is used. What gRPC calls an error becomes a
// line of `error_level`: its errors are connections that fail, which is a peer's business. At most
// one line in 50 ms is written. What protobuf has to say is about messages of peers and is written
// at debug. Where the environment variable GRPC_VERBOSITY is set, gRPC's lines are written whatever
// the log's level.
void TakeOverRpcLogs(LogLevel error_level);

}  // namespace bora

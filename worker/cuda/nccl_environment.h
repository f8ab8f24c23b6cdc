// Settings of NCCL, which it takes from the environment of the process only. NCCL cannot find out
// which of the host's networks the operator wants it to use; the worker knows that.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "kernels/nccl/nccl_library.h"

namespace bora {

// The name of the network interface that has this numeric address. NOT_FOUND if no interface has
// it, INVALID_ARGUMENT if it is not numeric; both name the address.
absl::StatusOr<std::string> InterfaceOf(absl::string_view address);

// Sets NCCL_SOCKET_IFNAME, so that NCCL meets its peers over the interface of `bind_address`, which
// this worker's other links use, too; and NCCL_RUNTIME_CONNECT. Variables that the operator has set
// keep their values. If no interface has the address, logs a warning and lets NCCL choose.
// REQUIRES: NCCL has not been used, and no other thread reads the environment.
void PrepareNcclEnvironment(absl::string_view bind_address);

// Logs NCCL's version and every environment variable whose name begins with NCCL_.
void LogNcclSettings(const NcclLibrary& library);

}  // namespace bora

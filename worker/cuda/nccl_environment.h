// NCCL takes settings from the process's environment only. What it cannot find out by itself is
// which of the host's networks the operator meant; the worker knows.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "kernels/nccl/nccl_library.h"

namespace bora {

// The network interface that has this numeric address. NOT_FOUND names the address.
absl::StatusOr<std::string> InterfaceOf(absl::string_view address);

// Makes NCCL meet its peers over the interface of `bind_address`, on which this worker's other
// links are, too. A setting that the operator has made stays. Before NCCL is first used, while the
// process has one thread that reads the environment.
void PrepareNcclEnvironment(absl::string_view bind_address);

// Logs the version and every NCCL_ variable of the environment.
void LogNcclSettings(const NcclLibrary& library);

}  // namespace bora

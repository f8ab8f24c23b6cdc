// NVIDIA's NCCL, which moves data between GPUs. It is opened at run time, so that programs start on
// hosts that lack it.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "kernels/nccl/nccl_abi.h"

namespace bora {

// What the ranks of one communicator have in common: opaque bytes that any channel may carry.
using NcclId = std::array<uint8_t, 128>;

// Immutable after construction; thread-safe.
class NcclLibrary {
 public:
  // path: where the library is, empty for the place where the system's loader finds libnccl.so.2 or
  // libnccl.so. UNAVAILABLE names the library and the reason: it is not there, it lacks a function,
  // or it is older than 2.18, the first whose configuration has all that is set here. A library
  // stays open until the process ends: it keeps state and threads of its own.
  static absl::StatusOr<std::unique_ptr<NcclLibrary>> Open(const std::string& path = "");

  // major * 10000 + minor * 100 + patch: 22809.
  int version() const { return version_; }
  // "2.28.9".
  std::string version_text() const;

  // A new id for one communicator. The calling process becomes the meeting point of the ranks: it
  // must live until all have connected, and needs no GPU. An id that is never used costs it a
  // thread and a socket. UNAVAILABLE when there is no network interface that NCCL can use.
  absl::StatusOr<NcclId> MakeId() const;

  const nccl::Api& api() const { return api_; }

  // The status of a call that did not succeed, with NCCL's text for the result and for the last
  // error of the communicator (or, where comm is null, of this process). UNAVAILABLE when a peer,
  // the network or the system failed, INTERNAL otherwise.
  absl::Status Error(absl::string_view what, nccl::Result result, ncclComm* comm) const;

 private:
  NcclLibrary(const nccl::Api& api, int version) : api_(api), version_(version) {}

  const nccl::Api api_;
  const int version_;
};

}  // namespace bora

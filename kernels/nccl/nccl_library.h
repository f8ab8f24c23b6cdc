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

// The identity of one communicator, shared by its ranks: opaque bytes that any channel may carry.
using NcclId = std::array<uint8_t, 128>;

// The opened library. Immutable after construction; thread-safe.
class NcclLibrary {
 public:
  // Opens the library. path: where it is; empty: where the system's loader finds libnccl.so.2 or
  // libnccl.so. UNAVAILABLE if it is missing, lacks a function, or is older than 2.18, the first
  // version whose configuration has every attribute that is set here; the message names the library
  // and the reason. A library stays open until the process ends, because it keeps state and threads
  // of its own.
  static absl::StatusOr<std::unique_ptr<NcclLibrary>> Open(const std::string& path = "");

  // major * 10000 + minor * 100 + patch, such as 22809.
  int version() const { return version_; }
  // The version as text, such as "2.28.9".
  std::string version_text() const;

  // Makes a new id for one communicator. The ranks meet at the calling process, which must live
  // until all of them have connected; it needs no GPU. An id that is never used costs the process a
  // thread and a socket. UNAVAILABLE if there is no network interface that NCCL can use.
  absl::StatusOr<NcclId> MakeId() const;

  // The library's functions, all of them found.
  const nccl::Api& api() const { return api_; }

  // The status for a call that did not succeed, with NCCL's text for the result and for the last
  // error of the communicator (of this process if comm is null). UNAVAILABLE if a peer, the network
  // or the system failed, INTERNAL otherwise. what: the beginning of the message.
  absl::Status Error(absl::string_view what, nccl::Result result, ncclComm* comm) const;

 private:
  NcclLibrary(const nccl::Api& api, int version) : api_(api), version_(version) {}

  const nccl::Api api_;
  const int version_;
};

}  // namespace bora

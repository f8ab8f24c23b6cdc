// The device layer under the operations: memory, streams, events, copies and graphs of one GPU.
// There are two implementations of this header: cuda_runtime.cc over CUDA's runtime, and
// tests/cuda_host/runtime.cc for programs that run kernels on the CPU.
//
// Errors at load (no driver, no memory) are returned as statuses. After an error of the device
// while it works (an illegal address, a lost GPU) the process cannot go on: it ends with a message.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "kernels/cuda/runtime/cuda_device.h"

struct CUevent_st;
struct CUgraphExec_st;

namespace bora {

// What is known of a GPU before it is used.
struct CudaDeviceInfo {
  int ordinal = 0;   // CUDA's number of the GPU on this host
  std::string name;  // such as "NVIDIA H200"
  int major = 0;     // compute capability major.minor
  int minor = 0;
  int64_t memory_bytes = 0;  // in total
  CudaLimits limits;
};

// The GPUs of this host; empty if there are none. UNAVAILABLE if none can be used: there is no
// driver, or it is older than the CUDA runtime of this build (the message has both versions).
absl::StatusOr<std::vector<CudaDeviceInfo>> ListCudaDevices();

// Makes a GPU the calling thread's current one and returns what is known of it. Errors: those of
// ListCudaDevices; NOT_FOUND if there is no GPU of that number; those of CheckCudaRequirements.
absl::StatusOr<CudaDeviceInfo> OpenCudaDevice(int ordinal);

// Free memory of the calling thread's GPU, in bytes.
absl::StatusOr<int64_t> FreeCudaBytes();

// A piece of device memory, which it owns. Movable. The memory is 256-byte aligned and its contents
// are undefined. It must not be destroyed before the work queued on it is done.
class CudaBuffer {
 public:
  CudaBuffer() = default;
  // Allocates n_bytes >= 0 on the calling thread's GPU. RESOURCE_EXHAUSTED if they are not
  // available; the message names `what`, the bytes asked for and the bytes free.
  static absl::StatusOr<CudaBuffer> Allocate(int64_t n_bytes, absl::string_view what);

  uint8_t* data() const { return data_.get(); }
  int64_t bytes() const { return n_bytes_; }

 private:
  struct Free {
    void operator()(uint8_t* data) const;
  };
  std::unique_ptr<uint8_t, Free> data_;
  int64_t n_bytes_ = 0;
};

// A piece of pinned host memory, which the GPU reads and writes without the CPU. Zero at first;
// otherwise like CudaBuffer.
class PinnedBuffer {
 public:
  PinnedBuffer() = default;
  static absl::StatusOr<PinnedBuffer> Allocate(int64_t n_bytes, absl::string_view what);

  uint8_t* data() const { return data_.get(); }
  int64_t bytes() const { return n_bytes_; }

 private:
  struct Free {
    void operator()(uint8_t* data) const;
  };
  std::unique_ptr<uint8_t, Free> data_;
  int64_t n_bytes_ = 0;
};

class CudaEvent;

// A queue of work for the GPU: work runs in the order in which it was queued. Owned by one thread.
class CudaStream {
 public:
  CudaStream() = default;
  // A stream on the calling thread's GPU. UNAVAILABLE if the driver makes none.
  static absl::StatusOr<CudaStream> Create();
  // A stream of high priority: its waiting thread blocks are placed on the GPU before those of
  // other streams. For work that a peer waits for.
  static absl::StatusOr<CudaStream> CreateUrgent();

  CUstream_st* get() const { return stream_.get(); }
  // Blocks until all work queued so far is done.
  void Synchronize() const;
  // Work queued from now on runs after the work that `event` marks at this moment. An event without
  // a mark does not delay it.
  void WaitFor(const CudaEvent& event) const;

 private:
  struct Destroy {
    void operator()(CUstream_st* stream) const;
  };
  std::unique_ptr<CUstream_st, Destroy> stream_;
};

// A mark in a stream, by which one can tell that the work before it is done. Owned by one thread.
class CudaEvent {
 public:
  CudaEvent() = default;
  // An event for order only, which costs the device less than one with a time. UNAVAILABLE if the
  // driver makes none.
  static absl::StatusOr<CudaEvent> Create();
  // An event with a time, for MillisecondsSince.
  static absl::StatusOr<CudaEvent> CreateTimed();

  // Marks the work queued on the stream so far; replaces the previous mark.
  void Record(const CudaStream& stream);
  // Whether all work before the mark is done; true if there is no mark.
  bool IsDone() const;
  // Blocks until IsDone.
  void Wait() const;
  // Milliseconds on the device from begin's mark to this one.
  // REQUIRES: both events are timed, and the work before both marks is done.
  double MillisecondsSince(const CudaEvent& begin) const;

 private:
  friend class CudaStream;
  struct Destroy {
    void operator()(CUevent_st* event) const;
  };
  std::unique_ptr<CUevent_st, Destroy> event_;
};

// Recorded work that is queued again as a whole: the same kernels with the same arguments, and
// copies between the same addresses. Owned by one thread.
class CudaGraph {
 public:
  CudaGraph() = default;
  // Records the work that `queue_work` queues on the stream, without running it, and uploads the
  // graph to the device. RESOURCE_EXHAUSTED if the device has no memory for the graph.
  // REQUIRES: queue_work does not wait for the device.
  static absl::StatusOr<CudaGraph> Capture(const CudaStream& stream,
                                           absl::FunctionRef<void()> queue_work);

  bool empty() const { return graph_ == nullptr; }
  // Queues the recorded work. REQUIRES: !empty().
  void Launch(const CudaStream& stream) const;

 private:
  struct Destroy {
    void operator()(CUgraphExec_st* graph) const;
  };
  std::unique_ptr<CUgraphExec_st, Destroy> graph_;
};

// Copies and fills, queued on a stream. Host memory must be pinned and keep its contents until the
// copy is done. On a null stream (CUDA's default) they are done on return.
void CopyToDevice(CUstream_st* stream, void* device, const void* host, int64_t n_bytes);
// Copies n_rows rows of row_bytes, contiguous on the host, to addresses that lie pitch_bytes apart
// on the device.
void CopyRowsToDevice(CUstream_st* stream, void* device, int64_t pitch_bytes, const void* host,
                      int64_t row_bytes, int64_t n_rows);
void CopyToHost(CUstream_st* stream, void* host, const void* device, int64_t n_bytes);
void CopyOnDevice(CUstream_st* stream, void* to, const void* from, int64_t n_bytes);
void FillDevice(CUstream_st* stream, void* device, uint8_t byte, int64_t n_bytes);

}  // namespace bora

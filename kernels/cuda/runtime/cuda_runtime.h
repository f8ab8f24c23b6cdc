// The device layer under operations: memory, streams, events, copies and graphs of one GPU. This
// header has two implementations: cuda_runtime.cc over CUDA's runtime, and for programs that run
// kernels on the CPU tests/cuda_host/runtime.cc.
//
// Errors at load (no driver, memory) are statuses. An error of the device while it works (an
// illegal address, a lost GPU) leaves the process nothing to go on with: it ends with a message.
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

struct CudaDeviceInfo {
  int ordinal = 0;
  std::string name;  // "NVIDIA H200"
  int major = 0;     // compute capability
  int minor = 0;
  int64_t memory_bytes = 0;
  CudaLimits limits;
};

// The GPUs of this host, empty without any. UNAVAILABLE says why none can be used: no driver, or
// one that is older than the CUDA runtime of this build (with both versions).
absl::StatusOr<std::vector<CudaDeviceInfo>> ListCudaDevices();

// Makes a GPU the calling thread's. Besides the errors of ListCudaDevices NOT_FOUND when there are
// not so many, and those of CheckCudaRequirements.
absl::StatusOr<CudaDeviceInfo> OpenCudaDevice(int ordinal);

// Bytes of the calling thread's GPU that nobody has.
absl::StatusOr<int64_t> FreeCudaBytes();

// Device memory. Owns it; movable. Its contents are undefined, it is 256-byte aligned. It must not
// end before what is queued on it is done.
class CudaBuffer {
 public:
  CudaBuffer() = default;
  // RESOURCE_EXHAUSTED names `what`, the bytes and what is free. n_bytes >= 0.
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

// Host memory that the GPU copies from and to by itself. As CudaBuffer, with zeros at first.
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

// A queue of work: what is queued runs in order. Owned by one thread.
class CudaStream {
 public:
  CudaStream() = default;
  static absl::StatusOr<CudaStream> Create();
  // One whose blocks get a place on the GPU before those of other streams that wait for one: for
  // what a peer waits for.
  static absl::StatusOr<CudaStream> CreateUrgent();

  CUstream_st* get() const { return stream_.get(); }
  // Waits until all that was queued is done.
  void Synchronize() const;
  // What is queued from now on runs after what the event marks now; at once without a mark.
  void WaitFor(const CudaEvent& event) const;

 private:
  struct Destroy {
    void operator()(CUstream_st* stream) const;
  };
  std::unique_ptr<CUstream_st, Destroy> stream_;
};

// A mark in a stream. Owned by one thread.
class CudaEvent {
 public:
  CudaEvent() = default;
  // For order only, which costs the device less than a time.
  static absl::StatusOr<CudaEvent> Create();
  // One that MillisecondsSince may be asked of.
  static absl::StatusOr<CudaEvent> CreateTimed();

  // Marks what has been queued so far; the mark before is forgotten.
  void Record(const CudaStream& stream);
  // Whether all before the mark is done; true without a mark.
  bool IsDone() const;
  void Wait() const;
  // Milliseconds on the device between two marks that are done, both of timed events.
  double MillisecondsSince(const CudaEvent& begin) const;

 private:
  friend class CudaStream;
  struct Destroy {
    void operator()(CUevent_st* event) const;
  };
  std::unique_ptr<CUevent_st, Destroy> event_;
};

// Work that was recorded once and is queued again as a whole: the same kernels with the same
// arguments, and copies from and to the same addresses. Owned by one thread.
class CudaGraph {
 public:
  CudaGraph() = default;
  // Records what `queue_work` queues on the stream, without running it, and queues the graph's copy
  // to the device. queue_work must not wait for anything. RESOURCE_EXHAUSTED when the device has no
  // memory for the graph.
  static absl::StatusOr<CudaGraph> Capture(const CudaStream& stream,
                                           absl::FunctionRef<void()> queue_work);

  bool empty() const { return graph_ == nullptr; }
  void Launch(const CudaStream& stream) const;

 private:
  struct Destroy {
    void operator()(CUgraphExec_st* graph) const;
  };
  std::unique_ptr<CUgraphExec_st, Destroy> graph_;
};

// Queued copies; host memory must be pinned and keep its contents until they are done. On a null
// stream (CUDA's default) they are done on return.
void CopyToDevice(CUstream_st* stream, void* device, const void* host, int64_t n_bytes);
// n_rows pieces of row_bytes that lie one behind another on the host, to every pitch_bytes of the
// device.
void CopyRowsToDevice(CUstream_st* stream, void* device, int64_t pitch_bytes, const void* host,
                      int64_t row_bytes, int64_t n_rows);
void CopyToHost(CUstream_st* stream, void* host, const void* device, int64_t n_bytes);
void CopyOnDevice(CUstream_st* stream, void* to, const void* from, int64_t n_bytes);
void FillDevice(CUstream_st* stream, void* device, uint8_t byte, int64_t n_bytes);

}  // namespace bora

// The GPU that operations are queued on.
#pragma once

struct CUstream_st;

namespace bora {

// Owned and used by one thread (the rank thread). Operations on it take addresses of device memory,
// 16-byte aligned, and return once they are queued on its stream, which must outlive it.
class CudaDevice {
 public:
  // stream: a cudaStream_t; null is CUDA's default stream.
  explicit CudaDevice(CUstream_st* stream) : stream_(stream) {}
  CUstream_st* stream() const { return stream_; }

 private:
  CUstream_st* stream_;
};

}  // namespace bora

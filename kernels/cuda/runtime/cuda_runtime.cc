#include "kernels/cuda/runtime/cuda_runtime.h"

#include <cuda_runtime_api.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/status_macros.h"
#include "kernels/cuda/runtime/cuda_requirements.h"

namespace bora {
namespace {

// Ends the process if a call failed. what: the beginning of the message.
void Check(cudaError_t error, const char* what) {
  CHECK(error == cudaSuccess) << what << ": " << cudaGetErrorString(error);
}

// The status if CUDA cannot start: the driver is missing or older than this build's runtime.
absl::Status DriverError(cudaError_t error) {
  int driver = 0;
  int runtime = 0;
  cudaDriverGetVersion(&driver);
  cudaRuntimeGetVersion(&runtime);
  const auto version = [](int number) {
    return absl::StrCat(number / 1000, ".", number % 1000 / 10);
  };
  if (driver == 0) {
    return absl::UnavailableError(
        absl::StrCat("no NVIDIA driver (", cudaGetErrorString(error), ")"));
  }
  return absl::UnavailableError(absl::StrCat("the NVIDIA driver supports CUDA ", version(driver),
                                             ", this build needs ", version(runtime), " (",
                                             cudaGetErrorString(error), ")"));
}

// The properties of one GPU.
absl::StatusOr<CudaDeviceInfo> InfoOf(int ordinal) {
  cudaDeviceProp properties = {};
  if (const cudaError_t error = cudaGetDeviceProperties(&properties, ordinal);
      error != cudaSuccess) {
    return absl::UnavailableError(absl::StrCat("cuda:", ordinal, ": ", cudaGetErrorString(error)));
  }
  CudaDeviceInfo info;
  info.ordinal = ordinal;
  info.name = properties.name;
  info.major = properties.major;
  info.minor = properties.minor;
  info.memory_bytes = static_cast<int64_t>(properties.totalGlobalMem);
  info.limits.n_multiprocessors = properties.multiProcessorCount;
  info.limits.max_shared_bytes = static_cast<int64_t>(properties.sharedMemPerBlockOptin);
  return info;
}

}  // namespace

absl::StatusOr<std::vector<CudaDeviceInfo>> ListCudaDevices() {
  int n_devices = 0;
  const cudaError_t error = cudaGetDeviceCount(&n_devices);
  if (error == cudaErrorNoDevice) return std::vector<CudaDeviceInfo>();
  if (error != cudaSuccess) return DriverError(error);
  std::vector<CudaDeviceInfo> devices;
  for (int ordinal = 0; ordinal < n_devices; ++ordinal) {
    ASSIGN_OR_RETURN(CudaDeviceInfo info, InfoOf(ordinal));
    devices.push_back(std::move(info));
  }
  return devices;
}

absl::StatusOr<CudaDeviceInfo> OpenCudaDevice(int ordinal) {
  ASSIGN_OR_RETURN(const std::vector<CudaDeviceInfo> devices, ListCudaDevices());
  if (ordinal < 0 || ordinal >= static_cast<int>(devices.size())) {
    return absl::NotFoundError(
        absl::StrCat("cuda:", ordinal, ": this host has ", devices.size(), " GPUs"));
  }
  const CudaDeviceInfo& info = devices[ordinal];
  RETURN_IF_ERROR(CheckCudaRequirements(info));
  if (const cudaError_t error = cudaSetDevice(ordinal); error != cudaSuccess) {
    return absl::UnavailableError(absl::StrCat("cuda:", ordinal, ": ", cudaGetErrorString(error)));
  }
  return info;
}

absl::StatusOr<int64_t> FreeCudaBytes() {
  size_t free = 0;
  size_t total = 0;
  if (const cudaError_t error = cudaMemGetInfo(&free, &total); error != cudaSuccess) {
    return absl::UnavailableError(cudaGetErrorString(error));
  }
  return static_cast<int64_t>(free);
}

absl::StatusOr<CudaBuffer> CudaBuffer::Allocate(int64_t n_bytes, absl::string_view what) {
  CHECK_GE(n_bytes, 0);
  CudaBuffer buffer;
  if (n_bytes == 0) return buffer;
  void* data = nullptr;
  if (const cudaError_t error = cudaMalloc(&data, static_cast<size_t>(n_bytes));
      error != cudaSuccess) {
    cudaGetLastError();  // clears the error, which the next launch would report otherwise
    const absl::StatusOr<int64_t> free = FreeCudaBytes();
    return absl::ResourceExhaustedError(absl::StrCat(what, ": ", n_bytes, " bytes of GPU memory, ",
                                                     free.ok() ? *free : 0, " are free (",
                                                     cudaGetErrorString(error), ")"));
  }
  buffer.data_.reset(static_cast<uint8_t*>(data));
  buffer.n_bytes_ = n_bytes;
  return buffer;
}

// Errors are ignored: at the end of the process the driver may be gone before the last buffer.
void CudaBuffer::Free::operator()(uint8_t* data) const { cudaFree(data); }

absl::StatusOr<PinnedBuffer> PinnedBuffer::Allocate(int64_t n_bytes, absl::string_view what) {
  CHECK_GE(n_bytes, 0);
  PinnedBuffer buffer;
  if (n_bytes == 0) return buffer;
  void* data = nullptr;
  if (const cudaError_t error = cudaMallocHost(&data, static_cast<size_t>(n_bytes));
      error != cudaSuccess) {
    cudaGetLastError();
    return absl::ResourceExhaustedError(absl::StrCat(
        what, ": ", n_bytes, " bytes of pinned host memory (", cudaGetErrorString(error), ")"));
  }
  buffer.data_.reset(static_cast<uint8_t*>(data));
  buffer.n_bytes_ = n_bytes;
  std::fill_n(buffer.data(), n_bytes, uint8_t{0});
  return buffer;
}

void PinnedBuffer::Free::operator()(uint8_t* data) const { cudaFreeHost(data); }

namespace {

// A stream that does not wait for CUDA's default stream.
absl::StatusOr<cudaStream_t> NewStream(int priority) {
  cudaStream_t stream = nullptr;
  if (const cudaError_t error =
          cudaStreamCreateWithPriority(&stream, cudaStreamNonBlocking, priority);
      error != cudaSuccess) {
    return absl::UnavailableError(absl::StrCat("stream: ", cudaGetErrorString(error)));
  }
  return stream;
}

absl::StatusOr<cudaEvent_t> NewEvent(unsigned flags) {
  cudaEvent_t event = nullptr;
  if (const cudaError_t error = cudaEventCreateWithFlags(&event, flags); error != cudaSuccess) {
    return absl::UnavailableError(absl::StrCat("event: ", cudaGetErrorString(error)));
  }
  return event;
}

}  // namespace

absl::StatusOr<CudaStream> CudaStream::Create() {
  CudaStream result;
  ASSIGN_OR_RETURN(cudaStream_t stream, NewStream(0));
  result.stream_.reset(stream);
  return result;
}

absl::StatusOr<CudaStream> CudaStream::CreateUrgent() {
  int least = 0;
  // A greater priority is a smaller number; both are 0 on a GPU without priorities.
  int greatest = 0;
  Check(cudaDeviceGetStreamPriorityRange(&least, &greatest), "priorities of streams");
  CudaStream result;
  ASSIGN_OR_RETURN(cudaStream_t stream, NewStream(greatest));
  result.stream_.reset(stream);
  return result;
}

void CudaStream::Destroy::operator()(CUstream_st* stream) const { cudaStreamDestroy(stream); }

void CudaStream::Synchronize() const { Check(cudaStreamSynchronize(get()), "GPU"); }

void CudaStream::WaitFor(const CudaEvent& event) const {
  Check(cudaStreamWaitEvent(get(), event.event_.get(), 0), "wait for an event");
}

absl::StatusOr<CudaEvent> CudaEvent::Create() {
  CudaEvent result;
  ASSIGN_OR_RETURN(cudaEvent_t event, NewEvent(cudaEventDisableTiming));
  result.event_.reset(event);
  return result;
}

absl::StatusOr<CudaEvent> CudaEvent::CreateTimed() {
  CudaEvent result;
  ASSIGN_OR_RETURN(cudaEvent_t event, NewEvent(cudaEventDefault));
  result.event_.reset(event);
  return result;
}

void CudaEvent::Destroy::operator()(CUevent_st* event) const { cudaEventDestroy(event); }

void CudaEvent::Record(const CudaStream& stream) {
  Check(cudaEventRecord(event_.get(), stream.get()), "event");
}

bool CudaEvent::IsDone() const {
  const cudaError_t error = cudaEventQuery(event_.get());
  if (error == cudaErrorNotReady) {
    cudaGetLastError();  // clears the error, which would be taken for a launch's otherwise
    return false;
  }
  Check(error, "GPU");
  return true;
}

void CudaEvent::Wait() const { Check(cudaEventSynchronize(event_.get()), "GPU"); }

double CudaEvent::MillisecondsSince(const CudaEvent& begin) const {
  float milliseconds = 0;
  Check(cudaEventElapsedTime(&milliseconds, begin.event_.get(), event_.get()), "event");
  return milliseconds;
}

absl::StatusOr<CudaGraph> CudaGraph::Capture(const CudaStream& stream,
                                             absl::FunctionRef<void()> queue_work) {
  // Relaxed mode permits the loading of code during the capture, for a kernel that is queued for
  // the first time.
  Check(cudaStreamBeginCapture(stream.get(), cudaStreamCaptureModeRelaxed), "capture");
  queue_work();
  cudaGraph_t graph = nullptr;
  Check(cudaStreamEndCapture(stream.get(), &graph), "capture");
  cudaGraphExec_t executable = nullptr;
  const cudaError_t error = cudaGraphInstantiate(&executable, graph, 0);
  cudaGraphDestroy(graph);
  if (error != cudaSuccess) {
    cudaGetLastError();
    return absl::ResourceExhaustedError(absl::StrCat("graph: ", cudaGetErrorString(error)));
  }
  CudaGraph result;
  result.graph_.reset(executable);
  // Uploads the graph now; otherwise the first launch would do so while a request waits.
  if (const cudaError_t uploaded = cudaGraphUpload(executable, stream.get());
      uploaded != cudaSuccess) {
    cudaGetLastError();
    return absl::ResourceExhaustedError(
        absl::StrCat("graph's upload: ", cudaGetErrorString(uploaded)));
  }
  return result;
}

void CudaGraph::Destroy::operator()(CUgraphExec_st* graph) const { cudaGraphExecDestroy(graph); }

void CudaGraph::Launch(const CudaStream& stream) const {
  Check(cudaGraphLaunch(graph_.get(), stream.get()), "graph");
}

void CopyToDevice(CUstream_st* stream, void* device, const void* host, int64_t n_bytes) {
  Check(cudaMemcpyAsync(device, host, static_cast<size_t>(n_bytes), cudaMemcpyHostToDevice, stream),
        "copy to the GPU");
  if (stream == nullptr) Check(cudaStreamSynchronize(nullptr), "GPU");
}

void CopyRowsToDevice(CUstream_st* stream, void* device, int64_t pitch_bytes, const void* host,
                      int64_t row_bytes, int64_t n_rows) {
  const auto width = static_cast<size_t>(row_bytes);
  Check(cudaMemcpy2DAsync(device, static_cast<size_t>(pitch_bytes), host, width, width,
                          static_cast<size_t>(n_rows), cudaMemcpyHostToDevice, stream),
        "copy to the GPU");
  if (stream == nullptr) Check(cudaStreamSynchronize(nullptr), "GPU");
}

void CopyToHost(CUstream_st* stream, void* host, const void* device, int64_t n_bytes) {
  Check(cudaMemcpyAsync(host, device, static_cast<size_t>(n_bytes), cudaMemcpyDeviceToHost, stream),
        "copy from the GPU");
  if (stream == nullptr) Check(cudaStreamSynchronize(nullptr), "GPU");
}

void CopyOnDevice(CUstream_st* stream, void* to, const void* from, int64_t n_bytes) {
  Check(cudaMemcpyAsync(to, from, static_cast<size_t>(n_bytes), cudaMemcpyDeviceToDevice, stream),
        "copy on the GPU");
  if (stream == nullptr) Check(cudaStreamSynchronize(nullptr), "GPU");
}

void FillDevice(CUstream_st* stream, void* device, uint8_t byte, int64_t n_bytes) {
  Check(cudaMemsetAsync(device, byte, static_cast<size_t>(n_bytes), stream), "fill");
  if (stream == nullptr) Check(cudaStreamSynchronize(nullptr), "GPU");
}

}  // namespace bora

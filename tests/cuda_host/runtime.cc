// The device layer of kernels/cuda/runtime/cuda_runtime.h on the CPU: device memory is heap blocks
// of exactly their size, so that AddressSanitizer guards them.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "base/check.h"
#include "base/int_math.h"
#include "kernels/cuda/runtime/cuda_runtime.h"
#include "tests/cuda_host/block.h"
#include "tests/cuda_host/stream.h"

// Of one thread; the queue and the counts are under device_mutex, since another thread may let the
// stream go on.
struct CUstream_st {
  bool capturing = false;
  std::deque<std::function<bool()>> queue;  // what has not run; of the graph while capturing
  std::atomic<int64_t> n_queued = 0;        // over the stream's life
  std::atomic<int64_t> n_run = 0;
  const std::thread::id owner = std::this_thread::get_id();
};

struct CUevent_st {
  bool timed = false;
  CUstream_st* stream = nullptr;
  int64_t mark = 0;           // n_queued when it was recorded
  mutable int n_queries = 0;  // since then
  std::chrono::steady_clock::time_point reached;
};

struct CUgraphExec_st {
  std::deque<std::function<bool()>> work;
};

namespace bora {
namespace {

constexpr size_t kAlignment = 256;
// Other processes and threads need the CPU on which we wait for them.
constexpr std::chrono::microseconds kIdle(20);

// The one multiprocessor: held while a piece of work runs.
std::mutex device_mutex;
std::vector<CUstream_st*> all_streams;  // under device_mutex

// Runs work up to the mark until a piece cannot go on; true if any ran.
bool RunSome(CUstream_st* stream, int64_t mark) {
  bool has_run = false;
  while (true) {
    const std::lock_guard<std::mutex> lock(device_mutex);
    if (stream->n_run >= mark || !stream->queue.front()()) break;
    stream->queue.pop_front();
    ++stream->n_run;
    has_run = true;
  }
  return has_run;
}

// Lets all streams of a thread go on; true if any work ran.
bool RunStreams(std::thread::id owner) {
  std::vector<CUstream_st*> streams;
  {
    const std::lock_guard<std::mutex> lock(device_mutex);
    for (CUstream_st* stream : all_streams) {
      if (stream->owner == owner) streams.push_back(stream);
    }
  }
  bool has_run = false;
  for (CUstream_st* stream : streams) has_run |= RunSome(stream, stream->n_queued);
  return has_run;
}

void RunUntil(CUstream_st* stream, int64_t mark) {
  while (true) {
    RunSome(stream, mark);
    if (stream->n_run >= mark) return;
    if (!RunStreams(stream->owner)) std::this_thread::sleep_for(kIdle);
  }
}

}  // namespace

namespace cuda_host {

void Submit(CUstream_st* stream, std::function<void()> work) {
  if (stream == nullptr) {
    const std::lock_guard<std::mutex> lock(device_mutex);
    work();
    return;
  }
  SubmitTry(stream, [work = std::move(work)] {
    work();
    return true;
  });
}

void SubmitTry(CUstream_st* stream, std::function<bool()> try_work) {
  CHECK(stream != nullptr);
  {
    const std::lock_guard<std::mutex> lock(device_mutex);
    stream->queue.push_back(std::move(try_work));
    if (stream->capturing) return;
    ++stream->n_queued;
  }
  if (run_options().eager_copies) RunSome(stream, stream->n_queued);
}

void RunQueued(CUstream_st* stream) {
  {
    const std::lock_guard<std::mutex> lock(device_mutex);
    if (std::find(all_streams.begin(), all_streams.end(), stream) == all_streams.end()) return;
  }
  RunUntil(stream, stream->n_queued);
}

}  // namespace cuda_host

absl::StatusOr<std::vector<CudaDeviceInfo>> ListCudaDevices() {
  CudaDeviceInfo info;
  info.name = "CUDA on the CPU";
  info.major = 9;
  info.memory_bytes = int64_t{8} << 30;
  // Operations make their grids as wide as the device: blocks without work take time here.
  info.limits.n_multiprocessors = 4;
  return std::vector<CudaDeviceInfo>{info};
}

absl::StatusOr<CudaDeviceInfo> OpenCudaDevice(int ordinal) {
  if (ordinal != 0) return absl::NotFoundError("there is only cuda:0");
  return (*ListCudaDevices())[0];
}

absl::StatusOr<int64_t> FreeCudaBytes() { return int64_t{8} << 30; }

absl::StatusOr<CudaBuffer> CudaBuffer::Allocate(int64_t n_bytes, absl::string_view) {
  CHECK_GE(n_bytes, 0);
  CudaBuffer buffer;
  if (n_bytes == 0) return buffer;
  void* data = nullptr;
  // Exactly so many bytes: aligned_alloc would want a multiple of the alignment.
  CHECK_EQ(posix_memalign(&data, kAlignment, static_cast<size_t>(n_bytes)), 0);
  std::memset(data, 0xff, static_cast<size_t>(n_bytes));  // NaN until it is written
  buffer.data_.reset(static_cast<uint8_t*>(data));
  buffer.n_bytes_ = n_bytes;
  return buffer;
}

void CudaBuffer::Free::operator()(uint8_t* data) const { std::free(data); }

absl::StatusOr<PinnedBuffer> PinnedBuffer::Allocate(int64_t n_bytes, absl::string_view) {
  CHECK_GE(n_bytes, 0);
  PinnedBuffer buffer;
  if (n_bytes == 0) return buffer;
  void* data = nullptr;
  CHECK_EQ(posix_memalign(&data, kAlignment, static_cast<size_t>(n_bytes)), 0);
  std::memset(data, 0, static_cast<size_t>(n_bytes));
  buffer.data_.reset(static_cast<uint8_t*>(data));
  buffer.n_bytes_ = n_bytes;
  return buffer;
}

void PinnedBuffer::Free::operator()(uint8_t* data) const { std::free(data); }

absl::StatusOr<CudaStream> CudaStream::Create() {
  CudaStream stream;
  stream.stream_.reset(new CUstream_st);
  const std::lock_guard<std::mutex> lock(device_mutex);
  all_streams.push_back(stream.get());
  return stream;
}

absl::StatusOr<CudaStream> CudaStream::CreateUrgent() { return Create(); }

void CudaStream::Destroy::operator()(CUstream_st* stream) const {
  RunUntil(stream, stream->n_queued);
  {
    const std::lock_guard<std::mutex> lock(device_mutex);
    std::erase(all_streams, stream);
  }
  delete stream;
}

void CudaStream::Synchronize() const { RunUntil(get(), get()->n_queued); }

void CudaStream::WaitFor(const CudaEvent& event) const {
  const CUstream_st* const other = event.event_->stream;
  if (other == nullptr) return;
  CHECK(!get()->capturing) << "a graph is of one stream";
  cuda_host::SubmitTry(get(), [other, mark = event.event_->mark] { return other->n_run >= mark; });
}

absl::StatusOr<CudaEvent> CudaEvent::Create() {
  CudaEvent event;
  event.event_.reset(new CUevent_st);
  return event;
}

absl::StatusOr<CudaEvent> CudaEvent::CreateTimed() {
  CudaEvent event;
  event.event_.reset(new CUevent_st{.timed = true});
  return event;
}

void CudaEvent::Destroy::operator()(CUevent_st* event) const { delete event; }

void CudaEvent::Record(const CudaStream& stream) {
  CUevent_st* const event = event_.get();
  cuda_host::Submit(stream.get(), [event] { event->reached = std::chrono::steady_clock::now(); });
  event->stream = stream.get();
  event->mark = stream.get()->n_queued;
  event->n_queries = 0;
}

// Work that nobody waits for must get done some time: at the second question.
bool CudaEvent::IsDone() const {
  if (event_->stream == nullptr || event_->stream->n_run >= event_->mark) return true;
  if (event_->n_queries++ == 0) return false;
  RunStreams(std::this_thread::get_id());
  return event_->stream->n_run >= event_->mark;
}

void CudaEvent::Wait() const {
  if (event_->stream != nullptr) RunUntil(event_->stream, event_->mark);
}

double CudaEvent::MillisecondsSince(const CudaEvent& begin) const {
  CHECK(event_->timed && begin.event_->timed) << "events without times";
  return std::chrono::duration<double, std::milli>(event_->reached - begin.event_->reached).count();
}

absl::StatusOr<CudaGraph> CudaGraph::Capture(const CudaStream& stream,
                                             absl::FunctionRef<void()> queue_work) {
  CUstream_st* const state = stream.get();
  CHECK(!state->capturing);
  std::deque<std::function<bool()>> before;
  std::swap(before, state->queue);
  state->capturing = true;
  queue_work();
  state->capturing = false;
  CudaGraph graph;
  graph.graph_.reset(new CUgraphExec_st{std::move(state->queue)});
  state->queue = std::move(before);
  return graph;
}

void CudaGraph::Destroy::operator()(CUgraphExec_st* graph) const { delete graph; }

void CudaGraph::Launch(const CudaStream& stream) const {
  for (const std::function<bool()>& work : graph_->work) cuda_host::SubmitTry(stream.get(), work);
}

void CopyToDevice(CUstream_st* stream, void* device, const void* host, int64_t n_bytes) {
  cuda_host::Submit(stream, [=] { std::memcpy(device, host, static_cast<size_t>(n_bytes)); });
}

void CopyRowsToDevice(CUstream_st* stream, void* device, int64_t pitch_bytes, const void* host,
                      int64_t row_bytes, int64_t n_rows) {
  for (int64_t row = 0; row < n_rows; ++row) {
    CopyToDevice(stream, static_cast<uint8_t*>(device) + row * pitch_bytes,
                 static_cast<const uint8_t*>(host) + row * row_bytes, row_bytes);
  }
}

void CopyToHost(CUstream_st* stream, void* host, const void* device, int64_t n_bytes) {
  cuda_host::Submit(stream, [=] { std::memcpy(host, device, static_cast<size_t>(n_bytes)); });
}

void CopyOnDevice(CUstream_st* stream, void* to, const void* from, int64_t n_bytes) {
  cuda_host::Submit(stream, [=] { std::memmove(to, from, static_cast<size_t>(n_bytes)); });
}

void FillDevice(CUstream_st* stream, void* device, uint8_t byte, int64_t n_bytes) {
  cuda_host::Submit(stream, [=] { std::memset(device, byte, static_cast<size_t>(n_bytes)); });
}

}  // namespace bora

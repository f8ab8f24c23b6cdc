// Transports without a wire: they keep what a call asks of them, and a test says what becomes of
// it.
#pragma once

#include <deque>
#include <string>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "base/check.h"
#include "bora/inference/v1/inference_service.pb.h"
#include "coordinator/api/api_error.h"
#include "coordinator/call/call_transport.h"

namespace bora {

// One operation that a call has asked for.
struct Operation {
  enum class Kind { kSend, kSendLast, kFinishWithError, kFinishUnheard, kReset };
  Kind kind = Kind::kSend;
  inference::v1::GenerateStreamResponse message;  // of a stream
  inference::v1::GenerateResponse answer;         // a whole one
  ApiError error;
};

// The operations of a call, in order. Thread-safe.
class Operations {
 public:
  void Add(Operation operation) {
    absl::MutexLock lock(&mutex_);
    operations_.push_back(std::move(operation));
  }
  // Waits for the next operation, and takes it.
  Operation Next() {
    absl::MutexLock lock(&mutex_);
    const auto is_there = [this]() ABSL_NO_THREAD_SAFETY_ANALYSIS { return !operations_.empty(); };
    CHECK(mutex_.AwaitWithTimeout(absl::Condition(&is_there), absl::Seconds(20)));
    Operation operation = std::move(operations_.front());
    operations_.pop_front();
    return operation;
  }
  // Operations that Next has not taken.
  size_t n_waiting() {
    absl::MutexLock lock(&mutex_);
    return operations_.size();
  }

 private:
  absl::Mutex mutex_;
  std::deque<Operation> operations_ ABSL_GUARDED_BY(mutex_);
};

template <typename Transport>
class TestTransport : public Transport {
 public:
  void SetRequestId(const std::string& request_id) override {
    CHECK(request_id_.empty()) << "told twice";
    request_id_ = request_id;
  }
  void FinishWithError(const ApiError& error) override {
    Add(Operation::Kind::kFinishWithError).error = error;
    Commit();
  }
  void FinishUnheard() override {
    Add(Operation::Kind::kFinishUnheard);
    Commit();
  }
  void Reset(const ApiError& error) override {
    Add(Operation::Kind::kReset).error = error;
    Commit();
  }

  Operation Next() { return operations_.Next(); }
  size_t n_waiting() { return operations_.n_waiting(); }
  // What SetRequestId said; after the first operation.
  const std::string& request_id() const { return request_id_; }

 protected:
  // Commit hands the operation that Add returned over to the test.
  Operation& Add(Operation::Kind kind) {
    CHECK(!request_id_.empty()) << "an operation before the request's id";
    next_ = Operation();
    next_.kind = kind;
    return next_;
  }
  void Commit() { operations_.Add(std::move(next_)); }

 private:
  std::string request_id_;
  Operation next_;
  Operations operations_;
};

class TestStream final : public TestTransport<StreamTransport> {
 public:
  void Send(const inference::v1::GenerateStreamResponse& message) override {
    Add(Operation::Kind::kSend).message = message;
    Commit();
  }
  void SendLast(const inference::v1::GenerateStreamResponse& message) override {
    Add(Operation::Kind::kSendLast).message = message;
    Commit();
  }
};

class TestAnswer final : public TestTransport<AnswerTransport> {
 public:
  void SendLast(const inference::v1::GenerateResponse& answer) override {
    Add(Operation::Kind::kSendLast).answer = answer;
    Commit();
  }
};

}  // namespace bora

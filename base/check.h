// CHECK macros for broken invariants: always on, one line in the log with the place and both
// values, then abort. Operating errors (files, network, user input) are absl::Status instead.
#pragma once

#include <sstream>
#include <string>

namespace bora::internal {

// Writes the line "CHECK failed: message" with file and line, waiting 400 ms at most, and aborts.
[[noreturn]] void CheckFailed(const char* file, int line, const std::string& message);

// Collects what is streamed behind a failing CHECK and aborts at the end of the statement.
class CheckFailure {
 public:
  CheckFailure(const char* file, int line, const char* condition) : file_(file), line_(line) {
    stream_ << condition << ' ';
  }
  [[noreturn]] ~CheckFailure() { CheckFailed(file_, line_, stream_.str()); }
  std::ostream& stream() { return stream_; }

 private:
  const char* file_;
  int line_;
  std::ostringstream stream_;
};

// Turns the streamed expression into void, so that CHECK is one expression statement.
struct Voidify {
  void operator&(std::ostream&) const {}
};

}  // namespace bora::internal

#define CHECK(condition)                      \
  (condition) ? (void)0                       \
              : ::bora::internal::Voidify() & \
                    ::bora::internal::CheckFailure(__FILE__, __LINE__, #condition).stream()
#define BORA_CHECK_OP(a, b, op) CHECK((a)op(b)) << "(" << (a) << " vs " << (b) << ") "
#define CHECK_EQ(a, b) BORA_CHECK_OP(a, b, ==)
#define CHECK_NE(a, b) BORA_CHECK_OP(a, b, !=)
#define CHECK_LT(a, b) BORA_CHECK_OP(a, b, <)
#define CHECK_LE(a, b) BORA_CHECK_OP(a, b, <=)
#define CHECK_GT(a, b) BORA_CHECK_OP(a, b, >)
#define CHECK_GE(a, b) BORA_CHECK_OP(a, b, >=)
// For absl::Status: aborts with the status text.
#define CHECK_OK(expression)                                      \
  for (const auto bora_status = (expression); !bora_status.ok();) \
  ::bora::internal::CheckFailed(__FILE__, __LINE__, std::string(bora_status.message()))

// CHECK macros for broken invariants. They are on in every build. A failure writes one log line
// with file, line, condition and both values, then aborts the process. Operating errors (files,
// network, user input) are absl::Status instead.
//
//   CHECK(n > 0) << "more text for the log line";
//   CHECK_EQ(n_rows, shape.n_rows);
#pragma once

#include <sstream>
#include <string>

namespace bora::internal {

// Writes the log line "CHECK failed: <message>" with file and line, then aborts. Waits for stderr
// at most 400 ms, so that a full pipe cannot keep a broken process alive. Any thread.
[[noreturn]] void CheckFailed(const char* file, int line, const std::string& message);

// Collects the text that is streamed after a failing CHECK. The destructor, at the end of the
// statement, calls CheckFailed.
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

// Turns the streamed expression into void, so that both branches of CHECK's "?:" have one type. '&'
// binds less tightly than "<<" and more tightly than "?:".
struct Voidify {
  void operator&(std::ostream&) const {}
};

}  // namespace bora::internal

#define CHECK(condition)                      \
  (condition) ? (void)0                       \
              : ::bora::internal::Voidify() & \
                    ::bora::internal::CheckFailure(__FILE__, __LINE__, #condition).stream()
// Evaluates `a` and `b` a second time if the check fails, for the message.
#define BORA_CHECK_OP(a, b, op) CHECK((a)op(b)) << "(" << (a) << " vs " << (b) << ") "
#define CHECK_EQ(a, b) BORA_CHECK_OP(a, b, ==)
#define CHECK_NE(a, b) BORA_CHECK_OP(a, b, !=)
#define CHECK_LT(a, b) BORA_CHECK_OP(a, b, <)
#define CHECK_LE(a, b) BORA_CHECK_OP(a, b, <=)
#define CHECK_GT(a, b) BORA_CHECK_OP(a, b, >)
#define CHECK_GE(a, b) BORA_CHECK_OP(a, b, >=)
// For an absl::Status: aborts with the status message unless the status is OK.
#define CHECK_OK(expression)                                      \
  for (const auto bora_status = (expression); !bora_status.ok();) \
  ::bora::internal::CheckFailed(__FILE__, __LINE__, std::string(bora_status.message()))

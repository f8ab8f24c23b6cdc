// A file descriptor that is closed when its owner is destroyed.
#pragma once

#include <unistd.h>

#include <utility>

namespace bora {

// Owns one descriptor or none; moveable, not copyable. Owned by one thread at a time.
class UniqueFd {
 public:
  UniqueFd() = default;
  // Takes ownership of `fd`; a negative number means none, so that open(...) can be passed
  // directly.
  explicit UniqueFd(int fd) : fd_(fd) {}
  UniqueFd(UniqueFd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  UniqueFd& operator=(UniqueFd&& other) noexcept {
    if (this != &other) Reset(std::exchange(other.fd_, -1));
    return *this;
  }
  UniqueFd(const UniqueFd&) = delete;
  UniqueFd& operator=(const UniqueFd&) = delete;
  ~UniqueFd() { Reset(); }

  // The descriptor, or -1 if there is none.
  int get() const { return fd_; }
  bool valid() const { return fd_ >= 0; }
  // Returns the descriptor and gives up ownership; the caller must close it.
  int Release() { return std::exchange(fd_, -1); }
  // Closes the descriptor, if there is one, and takes ownership of `fd`.
  void Reset(int fd = -1) {
    if (fd_ >= 0) close(fd_);
    fd_ = fd;
  }

 private:
  int fd_ = -1;
};

}  // namespace bora

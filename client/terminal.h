// The screen of a command that prints again and again: on a terminal an
// alternate screen that keys reach, elsewhere plain text.
#pragma once

#include <string>

#include "absl/time/time.h"

namespace bora {

struct TerminalSize {
  int columns = 80;
  int rows = 24;
};

// One at a time. Owned by one thread.
class Terminal {
 public:
  // Takes the alternate screen, and keys as they are typed, where standard
  // output is a terminal.
  Terminal();
  // Gives both back.
  ~Terminal();
  Terminal(const Terminal&) = delete;
  Terminal& operator=(const Terminal&) = delete;

  bool is_screen() const { return is_screen_; }
  TerminalSize size() const;
  // On a screen replaces what it shows: lines are cut to its width, and to its
  // height. Elsewhere prints the text.
  void Show(const std::string& text);
  // Waits; true if q was pressed meanwhile. Returns early then.
  bool WaitForQuit(absl::Duration duration) const;

 private:
  const bool is_screen_;
  const bool reads_keys_;
};

// What ~Terminal does, for a process that ends without it. From any thread.
void RestoreTerminal();

// The first `columns` characters of each line and the first `rows` lines,
// without a newline at the end. Characters are code points.
std::string FitText(const std::string& text, TerminalSize size);

}  // namespace bora

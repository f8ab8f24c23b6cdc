// Output of a command that prints the same view again and again: on a terminal it replaces a full
// screen and can be ended with a key; elsewhere it is plain text.
#pragma once

#include <string>

#include "absl/time/time.h"

namespace bora {

// Size in characters. The defaults are for output that is not a terminal. A plain value.
struct TerminalSize {
  int columns = 80;
  int rows = 24;
};

// The standard output of this process as a screen or as plain text. At most one exists at a time.
// Owned by one thread.
class Terminal {
 public:
  // If standard output is a terminal, switches to the alternate screen without a cursor and, if
  // standard input is a terminal too, lets single keys be read without Enter or echo.
  Terminal();
  // Restores screen and keys.
  ~Terminal();
  Terminal(const Terminal&) = delete;
  Terminal& operator=(const Terminal&) = delete;

  // Whether standard output is a terminal.
  bool is_screen() const { return is_screen_; }
  // The current size of the terminal; the default of TerminalSize if it is unknown.
  TerminalSize size() const;
  // On a terminal, replaces the contents of the screen by `text`, cut to the screen's size.
  // Elsewhere prints `text` as it is.
  void Show(const std::string& text);
  // Waits for `duration`, or until a key is pressed if that is earlier; returns whether the key was
  // q or Q. If standard input or output is not a terminal, always waits the whole time and returns
  // false.
  bool WaitForQuit(absl::Duration duration) const;

 private:
  const bool is_screen_;
  const bool reads_keys_;
};

// Restores screen and keys as ~Terminal does, for a process that exits without destructors. Does
// nothing if there is nothing to restore. Any thread.
void RestoreTerminal();

// Returns the first size.rows lines of `text`, each cut to its first size.columns characters
// (Unicode code points), without a final newline. A pure function.
std::string FitText(const std::string& text, TerminalSize size);

}  // namespace bora

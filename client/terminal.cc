#include "client/terminal.h"

#include <poll.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <iostream>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"
#include "absl/time/clock.h"

namespace bora {
namespace {

// Escape sequences of xterm, which all common terminals understand.
constexpr absl::string_view kEnter = "\033[?1049h\033[?25l";  // alternate screen, no cursor
constexpr absl::string_view kLeave = "\033[?25h\033[?1049l";
constexpr absl::string_view kHome = "\033[H";
constexpr absl::string_view kClearLine = "\033[K";
constexpr absl::string_view kClearBelow = "\033[J";

// What RestoreTerminal() must undo, on any thread. saved_keys holds the terminal's settings and is
// written before has_keys is set, so that a thread that sees has_keys also sees saved_keys.
termios saved_keys;
std::atomic<bool> has_keys{false};
std::atomic<bool> has_screen{false};

}  // namespace

Terminal::Terminal()
    : is_screen_(isatty(STDOUT_FILENO) == 1), reads_keys_(isatty(STDIN_FILENO) == 1) {
  if (is_screen_) {
    has_screen = true;
    std::cout << kEnter << std::flush;
  }
  if (is_screen_ && reads_keys_ && tcgetattr(STDIN_FILENO, &saved_keys) == 0) {
    has_keys = true;
    termios keys = saved_keys;
    // Keys arrive one by one (no ICANON) and are not shown (no ECHO). Signals such as Ctrl-C stay.
    keys.c_lflag &= ~static_cast<tcflag_t>(ICANON | ECHO);
    tcsetattr(STDIN_FILENO, TCSANOW, &keys);
  }
}

Terminal::~Terminal() {
  std::cout << std::flush;
  RestoreTerminal();
}

void RestoreTerminal() {
  // exchange() makes sure that only one thread restores. write() is used instead of std::cout,
  // which another thread may be using at the same time.
  if (has_keys.exchange(false)) tcsetattr(STDIN_FILENO, TCSANOW, &saved_keys);
  if (has_screen.exchange(false)) {
    [[maybe_unused]] const ssize_t n = write(STDOUT_FILENO, kLeave.data(), kLeave.size());
  }
}

TerminalSize Terminal::size() const {
  TerminalSize size;
  winsize window = {};
  if (is_screen_ && ioctl(STDOUT_FILENO, TIOCGWINSZ, &window) == 0 && window.ws_col > 0 &&
      window.ws_row > 0) {
    size.columns = window.ws_col;
    size.rows = window.ws_row;
  }
  return size;
}

void Terminal::Show(const std::string& text) {
  if (!is_screen_) {
    std::cout << text << std::flush;
    return;
  }
  // Every new line erases the rest of the old line. Clearing the whole screen first would
  // flicker.
  const std::string line_end = absl::StrCat(kClearLine, "\n");
  std::cout << kHome << absl::StrReplaceAll(FitText(text, size()), {{"\n", line_end}}) << kClearLine
            << kClearBelow << std::flush;
}

bool Terminal::WaitForQuit(absl::Duration duration) const {
  if (!is_screen_ || !reads_keys_) {
    absl::SleepFor(duration);
    return false;
  }
  pollfd keys = {STDIN_FILENO, POLLIN, 0};
  if (poll(&keys, 1, static_cast<int>(absl::ToInt64Milliseconds(duration))) <= 0) return false;
  char key = 0;
  const ssize_t n = read(STDIN_FILENO, &key, 1);
  // If the terminal is gone, poll returns at once; without this the caller would spin.
  if (n <= 0) absl::SleepFor(duration);
  return n == 1 && (key == 'q' || key == 'Q');
}

std::string FitText(const std::string& text, TerminalSize size) {
  std::string out;
  int row = 0;
  absl::string_view rest = text;
  absl::ConsumeSuffix(&rest, "\n");
  for (const absl::string_view line : absl::StrSplit(rest, '\n')) {
    if (row == size.rows) break;
    if (row++ > 0) out += '\n';
    int column = 0;
    for (const char letter : line) {
      // Continuation bytes of UTF-8 belong to the character before and take no column.
      const bool continues = (static_cast<unsigned char>(letter) & 0xc0) == 0x80;
      if (!continues && ++column > size.columns) break;
      out += letter;
    }
  }
  return out;
}

}  // namespace bora

// The command line of a program: its flags, arguments and commands, what --help and --version
// print, and every error of a line at once. CLI11 holds the definitions; what it does not do as
// people expect is done before and after it, alike for all programs:
//
//   --max-num-seqs 8, --max-num-seqs=8, --max_num_seqs=8      the same
//   --echo, --echo=true, --echo true; --no-echo, --echo=false, --echo false
//   an unknown flag, a word that no flag or argument takes, a flag twice: refused by name
//   numbers are read by us: decimal, never clamped
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/string_view.h"
#include "base/flags/command_flags.h"

namespace bora {

// Exit codes of all programs. 0 is success, 128 + N the end by signal N.
inline constexpr int kExitCannotStart = 1;  // or: the work failed
inline constexpr int kExitUsage = 2;

// Owned by one thread. Definitions first, then Parse once.
class CommandLine {
 public:
  struct Text {
    std::string program;
    std::string summary;   // what the program does, with examples
    std::string epilogue;  // behind the flags: exit codes
    std::string version;   // what --version prints, without a newline at the end
  };
  explicit CommandLine(Text text);

  // The program's own flags; those of a program with commands may stand before or after the
  // command's name.
  CommandFlags& flags() { return program_; }
  // A command of the program; exactly one must then be given.
  CommandFlags& AddCommand(std::string name, std::string summary);

  struct Parsed {
    // 0 when --help or --version were asked for, and were printed: the program ends with it.
    std::optional<int> exit_code;
    std::string command;              // empty in a program without commands
    std::vector<std::string> errors;  // one line each; empty: all variables are set
    // The program's own flags and the texts that hold, given or default.
    std::vector<std::pair<std::string, std::string>> settings;
  };
  // Reads the words of `argv` behind the program's name, and the environment, into the variables.
  // After errors those flags that are right are set nevertheless, so that more can be checked.
  Parsed Parse(int argc, const char* const* argv);

 private:
  const Text text_;
  CommandFlags program_;
  std::vector<std::unique_ptr<CommandFlags>> commands_;
};

// Prints "PROGRAM: error" to stderr for each error and, if `is_usage`, a last line that names
// --help.
void PrintErrors(absl::string_view program, const std::vector<std::string>& errors, bool is_usage);

}  // namespace bora

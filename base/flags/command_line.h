// The command line of a program: flags, arguments, commands, the text of --help and --version, and
// all errors of a line at once. CLI11 holds the definitions and lays out the help. The words are
// brought into one spelling first (base/flags/command_words.h), so that all programs behave alike:
//
//   --max-num-seqs 8, --max-num-seqs=8, --max_num_seqs=8                    mean the same
//   --echo, --echo=true, --echo true; --no-echo, --echo=false, --echo false
//   an unknown flag, an unexpected word, a flag given twice                  are errors by name
//   numbers                                                                 decimal, never clamped
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/string_view.h"
#include "base/flags/command_flags.h"

namespace bora {

// Exit codes of all programs. 0 is success; 128 + N means ended by signal N.
inline constexpr int kExitCannotStart = 1;  // also: the work failed
// A wrong command line.
inline constexpr int kExitUsage = 2;

// Define flags and commands first, then call Parse once. Owned by one thread.
class CommandLine {
 public:
  // Texts for --help and --version.
  struct Text {
    std::string program;
    std::string summary;   // what the program does, with examples; printed first
    std::string epilogue;  // printed after the flags: exit codes
    std::string version;   // printed by --version, without a final newline
  };
  explicit CommandLine(Text text);

  // The program's own flags. In a program with commands they may stand before or after the command.
  CommandFlags& flags() { return program_; }
  // Defines a command and returns its table of flags. A program with commands requires exactly one
  // on its command line. The reference stays valid.
  CommandFlags& AddCommand(std::string name, std::string summary);

  // The outcome of Parse.
  struct Parsed {
    // Set, to 0, if --help or --version was given: the text has been printed, and the program
    // should exit with this code.
    std::optional<int> exit_code;
    std::string command;              // name of the command; empty in a program without commands
    std::vector<std::string> errors;  // one line each; empty: all variables are set
    // The program's own flags in order of definition: name and text of the value, given or default.
    std::vector<std::pair<std::string, std::string>> settings;
  };
  // Reads argv[1..argc) and the environment into the variables of the flags. Even if there are
  // errors, valid flags are set, so that the caller can check their values too and report
  // everything at once.
  Parsed Parse(int argc, const char* const* argv);

 private:
  const Text text_;
  CommandFlags program_;
  std::vector<std::unique_ptr<CommandFlags>> commands_;
};

// Prints "PROGRAM: error" to stderr for each error and, if `is_usage`, a last line that points to
// --help.
void PrintErrors(absl::string_view program, const std::vector<std::string>& errors, bool is_usage);

}  // namespace bora

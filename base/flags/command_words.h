// First pass over a command line: assigns each word to a flag, command or argument, in one
// spelling, and finds everything wrong with the rest. Values are passed on unread.
#pragma once

#include <set>
#include <string>
#include <vector>

#include "base/flags/command_flags.h"

namespace bora {

// The result of the pass.
struct CommandWords {
  const CommandFlags* command = nullptr;  // the command given; null if none
  // A word "--name=value" for each flag; two words, "--name" and "", for an empty value.
  std::vector<std::string> program_words;
  std::vector<std::string> command_words;  // the same for flags of the command
  std::vector<std::string> arguments;      // of the command, or of a program without commands
  // Flags that occurred, the ones without their value included.
  std::set<const CommandFlags::Definition*> given;
  std::vector<std::string> errors;  // one line each
  bool wants_help = false;          // --help was given
  bool wants_version = false;       // --version was given
};

// Reads `words` (without the program's name). `flags` are the program's own; `commands` its
// commands: if there are any, `words` must name one. In flag names underscores equal dashes; for
// booleans --no-NAME means --NAME=false; the program's flags may stand anywhere. Errors: unknown
// flags and commands, with the most similar name; words that no flag or argument takes; flags
// without a value or given twice.
CommandWords ReadWords(const std::string& program, const CommandFlags& flags,
                       const std::vector<const CommandFlags*>& commands,
                       const std::vector<std::string>& words);

}  // namespace bora

// The words of a command line, brought into one spelling: which flag each belongs to, with which
// value, and what is wrong with the rest. Values are not looked into.
#pragma once

#include <set>
#include <string>
#include <vector>

#include "base/flags/command_flags.h"

namespace bora {

struct CommandWords {
  const CommandFlags* command = nullptr;   // the command that was named
  std::vector<std::string> program_words;  // "--name=value", or "--name" and "" for no text
  std::vector<std::string> command_words;  // the same for flags of the command
  std::vector<std::string> arguments;      // of the command, or of a program without commands
  std::set<const CommandFlags::Definition*> given;
  std::vector<std::string> errors;  // one line each
  bool wants_help = false;          // --help was there
  bool wants_version = false;       // --version was there
};

// `flags` are those of the program, `commands` its commands, if it has any: `words` must then name
// one. Dashes and underscores in names are the same; --no-NAME is --NAME=false for booleans; flags
// of the program may stand anywhere. Errors: unknown flags and commands, with the name that is most
// like them; words that nothing takes; flags without a value or given twice.
CommandWords ReadWords(const std::string& program, const CommandFlags& flags,
                       const std::vector<const CommandFlags*>& commands,
                       const std::vector<std::string>& words);

}  // namespace bora

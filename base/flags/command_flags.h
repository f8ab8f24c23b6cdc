// The table of flags and arguments of a program or of one of its commands. Each entry has a name,
// the variable it sets and a help text.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "base/flags/flag_value.h"

namespace bora {

// See the top of this file. Filled by main, then read by CommandLine. Owned by one thread.
class CommandFlags {
 public:
  // `name`: the command's name, empty for the program itself. `summary`: one line for --help.
  CommandFlags(std::string name, std::string summary)
      : name_(std::move(name)), summary_(std::move(summary)) {}

  // Flags defined after this call stand under this heading in --help.
  void Heading(std::string heading) { heading_ = std::move(heading); }
  // Defines the flag --name. `name` has dashes and no leading "--". `help` is one sentence; --help
  // adds the value's form, limits and default.
  void Flag(std::string name, FlagValue value, std::string help) {
    Add({std::move(name), "", "", std::move(value), std::move(help)});
  }
  // The same for a flag without which the command line is an error.
  void Require(std::string name, FlagValue value, std::string help) {
    Definition definition{std::move(name), "", "", std::move(value), std::move(help)};
    definition.is_required = true;
    Add(std::move(definition));
  }
  // One row of the table.
  struct Definition {
    std::string name;   // with dashes
    std::string alias;  // a short form with its dash, "-tp"; empty: none
    // Environment variable that is read if the flag is not given; empty: none.
    std::string environment;
    FlagValue value;
    std::string help;
    std::string heading;
    bool is_argument = false;
    bool is_required = false;
  };
  // Adds a row under the current heading.
  void Add(Definition definition);
  // Defines a positional argument. If its value is repeatable, it takes all words that follow.
  void Argument(std::string name, FlagValue value, std::string help, bool is_required);

  const std::string& name() const { return name_; }
  const std::string& summary() const { return summary_; }
  const std::vector<Definition>& definitions() const { return definitions_; }

 private:
  const std::string name_;
  const std::string summary_;
  std::string heading_ = "Options";
  std::vector<Definition> definitions_;
};

}  // namespace bora

// The flags and arguments of a program or of one of its commands, as a table: each is a line with
// name, variable and help.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "base/flags/flag_value.h"

namespace bora {

// The flags and arguments of a program, or of one of its commands.
class CommandFlags {
 public:
  // `name`: of the command; empty for the program.
  CommandFlags(std::string name, std::string summary)
      : name_(std::move(name)), summary_(std::move(summary)) {}

  // The flags that follow stand under this heading in --help.
  void Heading(std::string heading) { heading_ = std::move(heading); }
  // A flag --name. `help` is a sentence; form, limits and default are added to it.
  void Flag(std::string name, FlagValue value, std::string help) {
    Add({std::move(name), "", "", std::move(value), std::move(help)});
  }
  // The same for a flag that must be given.
  void Require(std::string name, FlagValue value, std::string help) {
    Definition definition{std::move(name), "", "", std::move(value), std::move(help)};
    definition.is_required = true;
    Add(std::move(definition));
  }
  struct Definition {
    std::string name;         // with dashes
    std::string alias;        // "-tp"; empty: none
    std::string environment;  // variable that is read where the flag is not given; empty: none
    FlagValue value;
    std::string help;
    std::string heading;
    bool is_argument = false;
    bool is_required = false;
  };
  void Add(Definition definition);
  // A word without a flag; a repeatable value takes all that follow.
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

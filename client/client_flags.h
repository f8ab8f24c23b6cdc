// The command line of `bora`: its commands and their flags.
#pragma once

#include <string>
#include <vector>

#include "base/flags/command_line.h"
#include "client/commands.h"
#include "client/plan.h"

namespace bora {

// The values of all flags, initially their defaults. Parsing changes only the global
// options and the options of the given command. A plain value.
struct ClientFlags {
  GlobalOptions global;
  GenerateOptions generate;
  TokenizeOptions tokenize;
  // Token ids, the argument of the command `detokenize`.
  std::vector<int32_t> detokenize_ids;
  StatusOptions status;
  PlanOptions plan;
};

// Builds the command line. Parsing it writes to `flags`, which must outlive the result.
CommandLine ClientCommandLine(ClientFlags* flags);

}  // namespace bora

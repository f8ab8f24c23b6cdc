// The command line of bora.
#pragma once

#include <string>
#include <vector>

#include "base/flags/command_line.h"
#include "client/commands.h"
#include "client/plan.h"

namespace bora {

// What the flags say, with their defaults. Those of the commands that were not named keep them.
struct ClientFlags {
  GlobalOptions global;
  GenerateOptions generate;
  TokenizeOptions tokenize;
  std::vector<int32_t> detokenize_ids;
  StatusOptions status;
  PlanOptions plan;
};

// The program's commands and flags; they set `flags`, which outlives the result.
CommandLine ClientCommandLine(ClientFlags* flags);

}  // namespace bora

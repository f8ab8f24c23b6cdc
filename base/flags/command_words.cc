#include "base/flags/command_words.h"

#include <algorithm>
#include <map>
#include <optional>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"
#include "base/flags/edit_distance.h"

namespace bora {
namespace {

using Definition = CommandFlags::Definition;

// The name most similar to `word`: the one with the least edit distance, if that is at most a third
// of the word's length (at least 1, at most 8); else a name that begins or ends with `word`; else
// nullopt.
std::optional<std::string> Nearest(absl::string_view word, const std::vector<std::string>& names) {
  std::optional<std::string> nearest;
  int least = 1 + std::max<int>(1, static_cast<int>(std::min<size_t>(word.size(), 24)) / 3);
  for (const std::string& name : names) {
    const int distance = word.size() > 64 ? least : EditDistance(word, name);
    if (distance >= least) continue;
    least = distance;
    nearest = name;
  }
  if (nearest.has_value()) return nearest;
  for (const std::string& name : names) {  // for example --max-model for --max-model-len
    if (word.size() >= 3 && (absl::StartsWith(name, word) || absl::EndsWith(name, word)))
      return name;
  }
  return std::nullopt;
}

// Reads the words from left to right into a CommandWords. Used once. Owned by one thread.
class Reader {
 public:
  Reader(const std::string& program, const CommandFlags& flags,
         const std::vector<const CommandFlags*>& commands, const std::vector<std::string>& words)
      : program_(program), flags_(&flags), commands_(commands), words_(words) {}

  CommandWords Read() {
    for (at_ = 0; at_ < words_.size(); ++at_) {
      const std::string& word = words_[at_];
      if (only_arguments_ || word.size() < 2 || word[0] != '-') {
        ReadArgument(word);
      } else if (word == "--") {
        only_arguments_ = true;
      } else {
        ReadFlag(word);
      }
    }
    if (!commands_.empty() && reading_.command == nullptr && !unknown_command_) {
      reading_.errors.push_back(absl::StrCat("a command is required: ", CommandNames()));
    }
    return std::move(reading_);
  }

 private:
  // A flag that a word names.
  struct Found {
    const Definition* definition = nullptr;
    bool is_negated = false;  // named as --no-NAME
    bool is_program = false;  // of the program, not of the command
  };

  std::string CommandNames() const {
    std::vector<std::string> names;
    for (const CommandFlags* command : commands_) names.push_back(command->name());
    return absl::StrJoin(names, ", ");
  }

  // The flag with this name (with dashes) or alias; of the command first, then of the program.
  Found FindExact(absl::string_view name) const {
    for (const CommandFlags* flags : {reading_.command, flags_}) {
      if (flags == nullptr) continue;
      for (const Definition& definition : flags->definitions()) {
        if (definition.is_argument) continue;
        const bool is_alias = !definition.alias.empty() && definition.alias == name;
        if (is_alias || absl::StrCat("--", definition.name) == name) {
          return {&definition, false, flags == flags_};
        }
      }
    }
    return {};
  }

  // As FindExact, with underscores in `name` (with its dashes) counting as dashes, and with
  // --no-NAME and --noNAME for booleans.
  Found Find(absl::string_view name) const {
    const std::string dashed = absl::StrReplaceAll(name, {{"_", "-"}});
    Found found = FindExact(dashed);
    if (found.definition != nullptr) return found;
    for (const absl::string_view no : {"--no-", "--no"}) {
      if (!absl::StartsWith(dashed, no)) continue;
      found = FindExact(absl::StrCat("--", absl::StripPrefix(dashed, no)));
      if (found.definition == nullptr || !found.definition->value.is_boolean) continue;
      found.is_negated = true;
      return found;
    }
    return {};
  }

  void ReadFlag(const std::string& word) {
    const size_t equals = word.find('=');
    const std::string name = word.substr(0, equals);
    const Found found = Find(name);
    if (found.definition == nullptr) return ReadUnknown(name, equals != std::string::npos);
    const Definition& flag = *found.definition;
    if (flag.name == "help" && equals == std::string::npos) reading_.wants_help = true;
    if (flag.name == "version" && equals == std::string::npos) reading_.wants_version = true;
    std::string value;
    if (equals != std::string::npos) {
      value = word.substr(equals + 1);
      if (found.is_negated) {
        return Error(absl::StrCat(name, " takes no value: write --", flag.name, "=", value));
      }
    } else if (flag.value.is_boolean) {
      value = found.is_negated ? "false" : "true";
      if (!found.is_negated && BooleanFollows()) value = words_[++at_];
    } else if (at_ + 1 == words_.size() || IsFlag(words_[at_ + 1])) {
      reading_.given.insert(&flag);
      return Error(absl::StrCat(name, " needs a value: ", flag.value.form));
    } else {
      value = words_[++at_];
    }
    if (!reading_.given.insert(&flag).second && !flag.value.is_repeatable) {
      return Error(absl::StrCat("--", flag.name, " is given more than once"));
    }
    std::vector<std::string>& words =
        found.is_program ? reading_.program_words : reading_.command_words;
    // CLI11 would take the next word for the value of "--name=", so the empty value becomes a word.
    if (value.empty()) {
      words.push_back(absl::StrCat("--", flag.name));
      words.push_back("");
    } else {
      words.push_back(absl::StrCat("--", flag.name, "=", value));
    }
  }

  // A word that begins with '-' and names no flag is a value, for example -1.
  bool IsFlag(const std::string& word) const {
    return absl::StartsWith(word, "-") &&
           Find(word.substr(0, word.find('='))).definition != nullptr;
  }

  // Whether the next word is the boolean's value. Never in a command whose argument takes many
  // words: one of these may be the text "true".
  bool BooleanFollows() const {
    if (at_ + 1 == words_.size()) return false;
    for (const Definition& definition : Current()->definitions()) {
      if (definition.is_argument && definition.value.is_repeatable) return false;
    }
    return words_[at_ + 1] == "true" || words_[at_ + 1] == "false";
  }

  // The table whose arguments are being read.
  const CommandFlags* Current() const {
    return reading_.command == nullptr ? flags_ : reading_.command;
  }

  // Reports an unknown flag with the most similar known one.
  void ReadUnknown(const std::string& name, bool has_value) {
    const std::string dashed =
        absl::StrReplaceAll(absl::StripPrefix(absl::StripPrefix(name, "-"), "-"), {{"_", "-"}});
    // From the spelling that is compared to the spelling that is suggested.
    std::map<std::string, std::string> spellings;
    for (const CommandFlags* flags : {reading_.command, flags_}) {
      if (flags == nullptr) continue;
      for (const Definition& definition : flags->definitions()) {
        if (definition.is_argument) continue;
        spellings[definition.name] = absl::StrCat("--", definition.name);
        if (definition.value.is_boolean) {
          const std::string negated = absl::StrCat("no-", definition.name);
          spellings[negated] = absl::StrCat("--", negated);
        }
        if (definition.alias.size() > 2) {
          spellings[definition.alias.substr(1)] =
              absl::StrCat(definition.alias, " (--", definition.name, ")");
        }
      }
    }
    std::vector<std::string> names;
    names.reserve(spellings.size());
    for (const auto& [spelling, flag] : spellings) names.push_back(spelling);
    const std::optional<std::string> nearest = Nearest(dashed, names);
    Error(absl::StrCat("unknown flag ", name,
                       nearest.has_value()
                           ? absl::StrCat("; did you mean ", spellings[*nearest], "?")
                           : std::string()));
    // The next word may be the unknown flag's value: skip it, so that it causes no second error.
    if (!has_value && at_ + 1 < words_.size() && !absl::StartsWith(words_[at_ + 1], "-")) ++at_;
  }

  void ReadArgument(const std::string& word) {
    if (!commands_.empty() && reading_.command == nullptr) return ReadCommand(word);
    size_t n_taken = 0;
    bool takes_all = false;
    for (const Definition& definition : Current()->definitions()) {
      if (!definition.is_argument) continue;
      ++n_taken;
      takes_all = takes_all || definition.value.is_repeatable;
    }
    if (takes_all || reading_.arguments.size() < n_taken) {
      reading_.arguments.push_back(word);
      return;
    }
    const std::string who = reading_.command == nullptr
                                ? program_
                                : absl::StrCat(program_, " ", reading_.command->name());
    const std::string takes =
        n_taken == 0 ? absl::StrCat(who, " takes flags only")
                     : absl::StrCat(who, " takes one ", "text; quote it if it has blanks");
    Error(absl::StrCat("unexpected word '", word, "': ", takes));
  }

  void ReadCommand(const std::string& word) {
    std::vector<std::string> names;
    for (const CommandFlags* command : commands_) {
      names.push_back(command->name());
      if (names.back() == word) {
        reading_.command = command;
        return;
      }
    }
    if (unknown_command_) return;  // the words after an unknown command cannot be judged
    unknown_command_ = true;
    const std::optional<std::string> nearest = Nearest(word, names);
    Error(absl::StrCat("'", word, "' is not a command",
                       nearest.has_value() ? absl::StrCat("; did you mean ", *nearest, "?")
                                           : absl::StrCat(": there are ", CommandNames())));
  }

  void Error(std::string error) { reading_.errors.push_back(std::move(error)); }

  const std::string& program_;
  const CommandFlags* const flags_;
  const std::vector<const CommandFlags*>& commands_;
  const std::vector<std::string>& words_;
  size_t at_ = 0;
  bool only_arguments_ = false;
  bool unknown_command_ = false;
  CommandWords reading_;
};

}  // namespace

CommandWords ReadWords(const std::string& program, const CommandFlags& flags,
                       const std::vector<const CommandFlags*>& commands,
                       const std::vector<std::string>& words) {
  return Reader(program, flags, commands, words).Read();
}

}  // namespace bora

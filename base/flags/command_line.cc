#include "base/flags/command_line.h"

#include <CLI/CLI.hpp>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <set>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "base/flags/command_words.h"
#include "base/log.h"

namespace bora {
namespace {

using Definition = CommandFlags::Definition;

// Width of --help, and the column at which help texts begin, both in letters.
constexpr size_t kHelpColumns = 80;
constexpr size_t kTextColumn = 30;

// Breaks `text` into lines shorter than kHelpColumns letters and indents all lines except the first
// by `indent` blanks. Newlines in `text`, and blanks at the beginning of its lines, are kept.
std::string Wrap(absl::string_view text, size_t indent) {
  std::string out;
  for (const absl::string_view paragraph : absl::StrSplit(text, '\n')) {
    if (!out.empty()) absl::StrAppend(&out, "\n", std::string(indent, ' '));
    size_t column = indent;
    const size_t n_blanks = std::min(paragraph.find_first_not_of(' '), paragraph.size());
    absl::StrAppend(&out, paragraph.substr(0, n_blanks));
    column += n_blanks;
    bool is_first = true;
    for (const absl::string_view word : absl::StrSplit(paragraph, ' ', absl::SkipEmpty())) {
      if (!is_first && column + 1 + word.size() >= kHelpColumns) {
        absl::StrAppend(&out, "\n", std::string(indent + n_blanks, ' '));
        column = indent + n_blanks;
        is_first = true;
      }
      absl::StrAppend(&out, is_first ? "" : " ", word);
      column += word.size() + (is_first ? 0 : 1);
      is_first = false;
    }
  }
  return out;
}

// Returns "  label    text" with the text from kTextColumn on; the text begins on the next line if
// the label is too long.
std::string TwoColumns(const std::string& label, const std::string& text) {
  std::string out = absl::StrCat("  ", label);
  if (out.size() + 2 > kTextColumn) absl::StrAppend(&out, "\n");
  const size_t n_used = absl::EndsWith(out, "\n") ? 0 : out.size();
  absl::StrAppend(&out, std::string(kTextColumn - n_used, ' '), Wrap(text, kTextColumn), "\n");
  return out;
}

// The left column of --help: "--name, -n FORM". A boolean that is on by default shows
// "--[no-]name", since only its negation is of use.
std::string Label(const Definition& flag) {
  if (flag.is_argument) return flag.name;
  std::string label = absl::StrCat(flag.value.default_text == "true" ? "--[no-]" : "--", flag.name);
  if (!flag.alias.empty()) absl::StrAppend(&label, ", ", flag.alias);
  if (!flag.value.form.empty()) absl::StrAppend(&label, " ", flag.value.form);
  return label;
}

// The right column: the flag's help and, in parentheses, its limits, default and so on.
std::string HelpText(const Definition& flag) {
  std::vector<std::string> facts;
  if (flag.is_required && !flag.is_argument) facts.push_back("required");
  if (!flag.value.limits.empty()) facts.push_back(absl::StrCat("in ", flag.value.limits));
  if (!flag.value.default_text.empty()) {
    facts.push_back(absl::StrCat("default ", flag.value.default_text));
  }
  if (flag.value.is_repeatable && !flag.is_argument) facts.push_back("may be repeated");
  if (!flag.environment.empty()) facts.push_back(absl::StrCat("environment ", flag.environment));
  if (facts.empty()) return flag.help;
  return absl::StrCat(flag.help, " (", absl::StrJoin(facts, "; "), ")");
}

// Lays CLI11's help out in 80 columns, with our texts for each flag. `definitions` maps CLI11's
// options to ours and may be filled after construction.
class HelpFormatter : public CLI::Formatter {
 public:
  HelpFormatter(const std::map<const CLI::Option*, const Definition*>& definitions,
                std::string program, std::string epilogue)
      : definitions_(definitions), program_(std::move(program)), epilogue_(std::move(epilogue)) {
    label("Positionals", "Arguments");
  }

  std::string make_help(const CLI::App* app, std::string, CLI::AppFormatMode mode) const override {
    const std::string help =
        absl::StrCat(Wrap(app->get_description(), 0), "\n\n", Usage(app), make_positionals(app),
                     make_groups(app, mode), Commands(app), "\n", Wrap(epilogue_, 0), "\n");
    return absl::StrReplaceAll(help, {{"\n\n\n", "\n\n"}});
  }
  std::string make_option(const CLI::Option* option, bool) const override {
    const Definition& definition = *definitions_.at(option);
    return TwoColumns(Label(definition), HelpText(definition));
  }

 private:
  std::string Usage(const CLI::App* app) const {
    std::string usage = absl::StrCat("Usage: ", program_);
    if (app->get_parent() != nullptr) absl::StrAppend(&usage, " ", app->get_name());
    for (const CLI::Option* option : app->get_options()) {
      const Definition& definition = *definitions_.at(option);
      if (!definition.is_argument) continue;
      std::string name = definition.name;
      if (definition.value.is_repeatable) absl::StrAppend(&name, "...");
      absl::StrAppend(
          &usage, definition.is_required ? absl::StrCat(" ", name) : absl::StrCat(" [", name, "]"));
    }
    if (!app->get_subcommands({}).empty()) absl::StrAppend(&usage, " COMMAND");
    return absl::StrCat(usage, " [OPTIONS]\n");
  }
  std::string Commands(const CLI::App* app) const {
    const std::vector<const CLI::App*> commands = app->get_subcommands({});
    if (commands.empty()) return "";
    std::string out = "\nCommands:\n";
    for (const CLI::App* command : commands) {
      out += TwoColumns(command->get_name(), command->get_description());
    }
    return absl::StrCat(out, "\n", program_, " COMMAND --help has the options of a command.\n");
  }

  const std::map<const CLI::Option*, const Definition*>& definitions_;
  const std::string program_;
  const std::string epilogue_;
};

// The definitions as a CLI11 application, which calls each flag's read function. Used once.
class Application {
 public:
  Application(const CommandLine::Text& text, const CommandFlags& flags,
              const std::vector<const CommandFlags*>& commands, size_t n_arguments)
      : n_arguments_(std::max(1, static_cast<int>(n_arguments))), app_(text.summary, text.program) {
    // CLI11's own --help is off: this program's flag --help is in the table like any other.
    app_.set_help_flag();
    app_.formatter(std::make_shared<HelpFormatter>(definitions_, text.program, text.epilogue));
    AddTo(&app_, flags);
    for (const CommandFlags* command : commands) {
      CLI::App* const sub = app_.add_subcommand(command->name(), command->summary());
      sub->set_help_flag();
      AddTo(sub, *command);
    }
  }

  // The text of --help for `command`, or for the program if `command` is null.
  std::string Help(const CommandFlags* command) {
    return command == nullptr ? app_.help() : app_.get_subcommand(command->name())->help();
  }

  // Name and value of each flag, except --help and --version. Call after Parse.
  std::vector<std::pair<std::string, std::string>> Settings(const CommandFlags& flags) const {
    std::vector<std::pair<std::string, std::string>> settings;
    for (const Definition& definition : flags.definitions()) {
      if (definition.is_argument || definition.name == "help" || definition.name == "version") {
        continue;
      }
      const auto given = texts_.find(&definition);
      std::string text = given == texts_.end() ? definition.value.default_text : given->second;
      if (text.empty() && definition.value.is_boolean) text = "false";
      settings.emplace_back(definition.name, std::move(text));
    }
    return settings;
  }

  // Reads the values into the variables. Returns the errors of values, in the order of the
  // definitions.
  std::vector<std::string> Parse(const CommandWords& words) {
    std::vector<std::string> line = words.program_words;
    if (words.command != nullptr) line.push_back(words.command->name());
    line.insert(line.end(), words.command_words.begin(), words.command_words.end());
    // Arguments may begin with '-'; after "--" CLI11 takes them for arguments.
    if (!words.arguments.empty()) line.push_back("--");
    line.insert(line.end(), words.arguments.begin(), words.arguments.end());
    std::reverse(line.begin(), line.end());  // CLI11 takes the words from the back
    given_ = &words.given;
    try {
      app_.parse(std::move(line));
    } catch (const CLI::ParseError& error) {
      errors_.push_back(error.what());
    }
    return std::move(errors_);
  }

 private:
  // Adds an option for each definition to `app`, with a callback that reads its values.
  void AddTo(CLI::App* app, const CommandFlags& flags) {
    for (const Definition& definition : flags.definitions()) {
      const std::string name =
          definition.is_argument ? definition.name : absl::StrCat("--", definition.name);
      CLI::Option* const option = app->add_option(
          name, [this, &definition](const CLI::results_t& texts) { return Set(definition, texts); },
          definition.help);
      option->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
      // The exact number of words: with expected(-1) CLI11 would take the text [a,b] for a list of
      // its own.
      if (definition.is_argument && definition.value.is_repeatable) option->expected(n_arguments_);
      if (!definition.heading.empty()) option->group(definition.heading);
      if (!definition.environment.empty()) option->envname(definition.environment);
      definitions_[option] = &definition;
    }
  }

  // Called by CLI11 with all texts of one flag, also if they come from the environment.
  bool Set(const Definition& definition, const CLI::results_t& texts) {
    texts_[&definition] = absl::StrJoin(texts, ",");
    for (const std::string& text : texts) {
      const absl::Status status = definition.value.read(text);
      if (status.ok()) continue;
      // A value that no word gave comes from the environment.
      const std::string source = given_->count(&definition) > 0
                                     ? absl::StrCat("--", definition.name)
                                     : definition.environment;
      errors_.push_back(absl::StrCat(definition.is_argument ? definition.name : source, "=", text,
                                     ": ", status.message()));
    }
    return true;  // false would make CLI11 throw at the first error; all errors are collected
  }

  const int n_arguments_;  // number of words that a repeatable argument takes
  CLI::App app_;
  std::map<const CLI::Option*, const Definition*> definitions_;
  std::map<const Definition*, std::string> texts_;  // texts that were given, by flag or environment
  const std::set<const Definition*>* given_ = nullptr;
  std::vector<std::string> errors_;
};

// Whether the environment variable of the flag is set, if the flag has one.
bool IsInEnvironment(const Definition& definition) {
  return !definition.environment.empty() && std::getenv(definition.environment.c_str()) != nullptr;
}

}  // namespace

void CommandFlags::Add(Definition definition) {
  definition.heading = heading_;
  definitions_.push_back(std::move(definition));
}

void CommandFlags::Argument(std::string name, FlagValue value, std::string help, bool is_required) {
  Definition definition{std::move(name), "", "", std::move(value), std::move(help)};
  definition.is_argument = true;
  definition.is_required = is_required;
  definitions_.push_back(std::move(definition));
}

CommandLine::CommandLine(Text text) : text_(std::move(text)), program_("", text_.summary) {}

CommandFlags& CommandLine::AddCommand(std::string name, std::string summary) {
  commands_.push_back(std::make_unique<CommandFlags>(std::move(name), std::move(summary)));
  return *commands_.back();
}

CommandLine::Parsed CommandLine::Parse(int argc, const char* const* argv) {
  bool help = false;
  bool version = false;
  program_.Heading("Help");
  program_.Add({"help", "-h", "", BooleanFlag(&help), "Print this help and exit."});
  program_.Flag("version", BooleanFlag(&version), "Print what this build is and exit.");
  std::vector<const CommandFlags*> commands;
  for (const auto& command : commands_) commands.push_back(command.get());
  const CommandWords words =
      ReadWords(text_.program, program_, commands, std::vector<std::string>(argv + 1, argv + argc));
  Application application(text_, program_, commands, words.arguments.size());
  Parsed parsed;
  if (words.wants_help) {
    std::printf("%s", application.Help(words.command).c_str());
    parsed.exit_code = 0;
    return parsed;
  }
  if (words.wants_version) {
    std::printf("%s\n", text_.version.c_str());
    parsed.exit_code = 0;
    return parsed;
  }
  if (words.command != nullptr) parsed.command = words.command->name();
  parsed.errors = words.errors;
  for (std::string& error : application.Parse(words)) parsed.errors.push_back(std::move(error));
  parsed.settings = application.Settings(program_);
  // After a misspelt flag, missing flags are not reported: the misspelt one may be meant.
  if (!words.errors.empty()) return parsed;
  for (const CommandFlags* flags : {words.command, &std::as_const(program_)}) {
    if (flags == nullptr) continue;
    for (const Definition& definition : flags->definitions()) {
      if (!definition.is_required || words.given.count(&definition) > 0) continue;
      if (definition.is_argument ? !words.arguments.empty() : IsInEnvironment(definition)) continue;
      parsed.errors.push_back(absl::StrCat(definition.is_argument ? "" : "--", definition.name,
                                           " is required: ", definition.help));
    }
  }
  return parsed;
}

void PrintErrors(absl::string_view program, const std::vector<std::string>& errors, bool is_usage) {
  std::string text;
  for (const std::string& error : errors) absl::StrAppend(&text, program, ": ", error, "\n");
  if (is_usage) absl::StrAppend(&text, "Try ", program, " --help.\n");
  WriteToStderr(text);
}

}  // namespace bora

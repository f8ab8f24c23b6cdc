#include "base/flags/command_line.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <optional>
#include <string>
#include <vector>

#include "base/flags/edit_distance.h"
#include "base/host/cpu_features.h"

namespace bora {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

// A server: no arguments, no commands.
struct Server {
  std::string model;
  std::string dtype = "auto";
  int32_t max_seqs = 64;
  int32_t n_ranks = 1;
  int32_t max_len = 0;
  int64_t memory = 1000;
  bool caching = true;
  bool insecure = false;
  double part = 0.9;
  absl::Duration timeout = absl::Seconds(25);
  uint64_t seed = 0;
  std::vector<int64_t> layers;

  CommandLine::Parsed Parse(std::vector<const char*> words) {
    CommandLine line({"server", "Serves.", "Exit codes: 0.", "server 1.2.3"});
    CommandFlags& table = line.flags();
    table.Heading("Model");
    table.Require("model", TextFlag(&model, "DIR"), "Where the model is.");
    table.Flag("dtype", ChoiceFlag(&dtype, {"auto", "float32"}), "Type.");
    table.Flag("max-num-seqs", IntegerFlag(&max_seqs, 1, 4096), "At once.");
    table.Add({"tensor-parallel-size", "-tp", "", IntegerFlag(&n_ranks, 1, 64), "Ranks."});
    table.Flag("max-model-len", CountFlag(&max_len, 0, 1 << 20).Default("the model's"), "Tokens.");
    table.Flag("memory-bytes", BytesFlag(&memory, 0, int64_t{1} << 50), "Memory.");
    table.Heading("Others");
    table.Flag("enable-caching", BooleanFlag(&caching), "Cache.");
    table.Flag("insecure", BooleanFlag(&insecure), "Anything goes.");
    table.Flag("part", NumberFlag(&part, {.min = 0, .max = 1, .excludes_min = true}), "Part.");
    table.Flag("timeout", DurationFlag(&timeout, absl::ZeroDuration(), absl::Hours(1)), "Time.");
    table.Flag("seed", UnsignedFlag(&seed), "Seed.");
    table.Flag("layers", IntegerListFlag(&layers, 1, 100), "Layers.");
    words.insert(words.begin(), "server");
    return line.Parse(static_cast<int>(words.size()), words.data());
  }
};

TEST(CommandLineTest, DashesUnderscoresEqualsSignsAndAliasesAreTheSame) {
  for (const std::vector<const char*>& words : std::vector<std::vector<const char*>>{
           {"--model", "m", "--max-num-seqs", "8", "-tp", "2"},
           {"--model=m", "--max_num_seqs=8", "-tp=2"},
           {"--model", "m", "--max_num_seqs", "8", "--tensor_parallel_size=2"}}) {
    Server server;
    EXPECT_THAT(server.Parse(words).errors, IsEmpty());
    EXPECT_EQ(server.model, "m");
    EXPECT_EQ(server.max_seqs, 8);
    EXPECT_EQ(server.n_ranks, 2);
  }
}

TEST(CommandLineTest, BooleansHaveManySpellings) {
  for (const std::vector<const char*>& words :
       std::vector<std::vector<const char*>>{{"--enable-caching=false"},
                                             {"--enable-caching", "false"},
                                             {"--no-enable-caching"},
                                             {"--noenable_caching"},
                                             {"--enable_caching=0"},
                                             {"--enable-caching=off"}}) {
    Server server;
    std::vector<const char*> all = words;
    all.push_back("--model=m");
    EXPECT_THAT(server.Parse(all).errors, IsEmpty());
    EXPECT_FALSE(server.caching) << words[0];
  }
  Server server;
  EXPECT_THAT(server.Parse({"--model=m", "--insecure", "--enable-caching", "true"}).errors,
              IsEmpty());
  EXPECT_TRUE(server.insecure);
  EXPECT_TRUE(server.caching);
  EXPECT_THAT(server.Parse({"--model=m", "--insecure=maybe"}).errors,
              ElementsAre("--insecure=maybe: must be true or false"));
  EXPECT_THAT(server.Parse({"--model=m", "--no-insecure=true"}).errors,
              ElementsAre(HasSubstr("--no-insecure takes no value")));
}

TEST(CommandLineTest, ReadsAmounts) {
  Server server;
  EXPECT_THAT(
      server
          .Parse({"--model=m", "--max-model-len=8k", "--memory-bytes=1GiB", "--timeout=500ms",
                  "--seed=18446744073709551615", "--layers=3,4,5", "--part=0.5"})
          .errors,
      IsEmpty());
  EXPECT_EQ(server.max_len, 8000);
  EXPECT_EQ(server.memory, int64_t{1} << 30);
  EXPECT_EQ(server.timeout, absl::Milliseconds(500));
  EXPECT_EQ(server.seed, 18446744073709551615u);
  EXPECT_THAT(server.layers, ElementsAre(3, 4, 5));
  EXPECT_THAT(server.Parse({"--model=m", "--memory-bytes=123", "--timeout=7"}).errors, IsEmpty());
  EXPECT_EQ(server.memory, 123);
  EXPECT_EQ(server.timeout, absl::Seconds(7));
}

TEST(CommandLineTest, NumbersAreNeverClamped) {
  const auto error_of = [](const char* word) {
    Server server;
    const std::vector<std::string> errors = server.Parse({"--model=m", word}).errors;
    return errors.size() == 1 ? errors[0] : absl::StrCat(errors.size(), " errors");
  };
  EXPECT_EQ(error_of("--max-num-seqs=0"), "--max-num-seqs=0: must be in [1, 4096]");
  EXPECT_EQ(error_of("--max-num-seqs=99999999999999999999"),
            "--max-num-seqs=99999999999999999999: must be in [1, 4096]");
  EXPECT_THAT(error_of("--max-num-seqs=many"), HasSubstr("\"many\" is not a whole number"));
  EXPECT_THAT(error_of("--max-num-seqs="), HasSubstr("is not a whole number"));
  EXPECT_THAT(error_of("--seed=18446744073709551616"), HasSubstr("[0, 18446744073709551615]"));
  EXPECT_THAT(error_of("--seed=-1"), HasSubstr("[0, 18446744073709551615]"));
  EXPECT_THAT(error_of("--part=nan"), HasSubstr("must be in (0, 1]"));
  EXPECT_THAT(error_of("--part=0"), HasSubstr("must be in (0, 1]"));
  EXPECT_THAT(error_of("--timeout=2h"), HasSubstr("must be in [0, 1h]"));
  EXPECT_THAT(error_of("--timeout=5 parsecs"), HasSubstr("5 parsecs"));
  EXPECT_THAT(error_of("--memory-bytes=1PiB"), HasSubstr("1PiB"));
  EXPECT_THAT(error_of("--memory-bytes=-1"), HasSubstr("bytes"));
  EXPECT_THAT(error_of("--layers=3,x"), AllOf(HasSubstr("--layers=3,x"), HasSubstr("'x'")));
  EXPECT_THAT(error_of("--dtype=int3"), "--dtype=int3: must be auto or float32");
}

TEST(CommandLineTest, AllErrorsOfALineAreReportedAndWhatIsRightIsSet) {
  Server server;
  const CommandLine::Parsed parsed =
      server.Parse({"--modle", "x", "--tp", "2", "stray", "--part=2", "--seed=1", "--seed=2",
                    "--max-num-seqs=8", "--timeout"});
  EXPECT_THAT(parsed.errors,
              ElementsAre("unknown flag --modle; did you mean --model?",
                          "unknown flag --tp; did you mean -tp (--tensor-parallel-size)?",
                          "unexpected word 'stray': server takes flags only",
                          "--seed is given more than once", "--timeout needs a value: TIME",
                          "--part=2: must be in (0, 1]"));
  EXPECT_EQ(server.max_seqs, 8);
  EXPECT_THAT(Server().Parse({"--zebra"}).errors, ElementsAre("unknown flag --zebra"));
  EXPECT_THAT(Server().Parse({"--model", "--seed=1"}).errors,
              ElementsAre("--model needs a value: DIR"));
  EXPECT_THAT(Server().Parse({}).errors, ElementsAre("--model is required: Where the model is."));
}

TEST(CommandLineTest, HelpHasEveryFlagInEightyColumns) {
  testing::internal::CaptureStdout();
  Server server;
  EXPECT_EQ(server.Parse({"--max-num-seqs=0", "-h"}).exit_code, 0);
  const std::string help = testing::internal::GetCapturedStdout();
  for (const char* part :
       {"Usage: server [OPTIONS]", "Model:\n", "Others:\n", "--model DIR", "(required)",
        "--dtype auto|float32", "--tensor-parallel-size, -tp N", "(in [1, 4096]; default 64)",
        "default the model's", "--[no-]enable-caching", "default 25s", "Exit codes: 0."}) {
    EXPECT_THAT(help, HasSubstr(part));
  }
  for (const absl::string_view line : absl::StrSplit(help, '\n'))
    EXPECT_LT(line.size(), 80u) << line;
  testing::internal::CaptureStdout();
  EXPECT_EQ(server.Parse({"--version"}).exit_code, 0);
  EXPECT_EQ(testing::internal::GetCapturedStdout(), "server 1.2.3\n");
}

// A client: commands with arguments.
struct Client {
  std::string server = "here";
  std::string prompt;
  std::optional<int64_t> seed;
  bool echo = false;
  std::vector<std::string> stop;
  std::vector<std::string> texts;

  CommandLine::Parsed Parse(std::vector<const char*> words) {
    CommandLine line({"client", "Asks.", "", ""});
    line.flags().Add({"server", "", "BORA_COMMAND_LINE_TEST", TextFlag(&server, "HOST"), "Where."});
    CommandFlags& generate = line.AddCommand("generate", "Generates.");
    generate.Argument("prompt", TextFlag(&prompt, "TEXT"), "Prompt.", false);
    generate.Flag("seed", IntegerFlag(&seed), "Seed.");
    generate.Flag("echo", BooleanFlag(&echo), "Echo.");
    generate.Flag("stop", RepeatedFlag(&stop, "TEXT"), "Stop.");
    CommandFlags& tokenize = line.AddCommand("tokenize", "Tokenizes.");
    tokenize.Argument("text", RepeatedFlag(&texts, "TEXT"), "Texts.", true);
    tokenize.Flag("echo", BooleanFlag(&echo), "Echo.");
    words.insert(words.begin(), "client");
    return line.Parse(static_cast<int>(words.size()), words.data());
  }
};

TEST(CommandLineTest, CommandsHaveFlagsAndArgumentsOfTheirOwn) {
  Client client;
  const CommandLine::Parsed parsed = client.Parse(
      {"--server=a", "generate", "[1,2]", "--seed", "-5", "--stop", "x", "--stop=--y", "--echo"});
  EXPECT_THAT(parsed.errors, IsEmpty());
  EXPECT_EQ(parsed.command, "generate");
  EXPECT_EQ(client.server, "a");
  EXPECT_EQ(client.prompt, "[1,2]");
  EXPECT_EQ(client.seed, -5);
  EXPECT_THAT(client.stop, ElementsAre("x", "--y"));
  EXPECT_TRUE(client.echo);
  EXPECT_THAT(client.Parse({"generate", "--server", "b", "--", "--seed"}).errors, IsEmpty());
  EXPECT_EQ(client.server, "b");
  EXPECT_EQ(client.prompt, "--seed");
  EXPECT_THAT(client.Parse({"tokenize", "--echo", "true", "", "[a,b]", "-"}).errors, IsEmpty());
  EXPECT_THAT(client.texts, ElementsAre("true", "", "[a,b]", "-"));
}

TEST(CommandLineTest, ErrorsOfCommands) {
  Client client;
  EXPECT_THAT(client.Parse({}).errors, ElementsAre("a command is required: generate, tokenize"));
  EXPECT_THAT(client.Parse({"generat", "x", "y"}).errors,
              ElementsAre("'generat' is not a command; did you mean generate?"));
  EXPECT_THAT(client.Parse({"generate", "x", "y"}).errors,
              ElementsAre(HasSubstr("unexpected word 'y': client generate takes one")));
  EXPECT_THAT(client.Parse({"generate", "--sed", "5", "x"}).errors,
              ElementsAre("unknown flag --sed; did you mean --seed?"));
  EXPECT_THAT(client.Parse({"generate", "--seed=9223372036854775808"}).errors,
              ElementsAre("--seed=9223372036854775808: must be in [-9223372036854775808, "
                          "9223372036854775807]"));
  EXPECT_THAT(client.Parse({"tokenize"}).errors, ElementsAre("text is required: Texts."));
}

TEST(CommandLineTest, TheEnvironmentSetsWhatNoFlagDoes) {
  setenv("BORA_COMMAND_LINE_TEST", "from environment", 1);
  Client client;
  EXPECT_THAT(client.Parse({"tokenize", "x"}).errors, IsEmpty());
  EXPECT_EQ(client.server, "from environment");
  EXPECT_THAT(client.Parse({"tokenize", "x", "--server=flag"}).errors, IsEmpty());
  EXPECT_EQ(client.server, "flag");
  unsetenv("BORA_COMMAND_LINE_TEST");
}

TEST(EditDistanceTest, CountsLetters) {
  EXPECT_EQ(EditDistance("", "abc"), 3);
  EXPECT_EQ(EditDistance("modle", "model"), 1);
  EXPECT_EQ(EditDistance("kitten", "sitting"), 3);
  EXPECT_EQ(EditDistance("same", "same"), 0);
}

TEST(CpuFeaturesTest, TheHostHasWhatTheBuildHasOrLess) {
  EXPECT_THAT(BuiltInstructionSets(), HasSubstr("portable"));
  EXPECT_THAT(BuiltInstructionSets(), HasSubstr(HostInstructionSets()));
}

}  // namespace
}  // namespace bora

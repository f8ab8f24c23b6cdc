#include <algorithm>
#include <iostream>
#include <optional>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/clock.h"
#include "client/call.h"
#include "client/commands.h"
#include "client/status_text.h"
#include "client/terminal.h"

namespace bora {
namespace {

namespace pb = inference::v1;

// Longest timeout of a call of this command, since a person or a readiness probe waits for the
// answer.
constexpr absl::Duration kMaxCall = absl::Seconds(5);
// How often Watch checks for a key or a signal.
constexpr absl::Duration kPoll = absl::Milliseconds(50);
// Pause between two tries of WaitUntilServing.
constexpr absl::Duration kWaitPoll = absl::Milliseconds(200);

// Asks the server for all that one view shows and fills *sample. Makes two calls, each with the
// timeout of `global`; returns the status of the first that fails.
grpc::Status Fetch(const GlobalOptions& global, Client* client, StatusSample* sample) {
  {
    CallScope call(global);
    grpc::Status status = client->models().GetServerInfo(call.get(), {}, &sample->info);
    if (!status.ok()) return status;
  }
  // Taken directly after the answer with the counters: a rate is the difference of two counters
  // over the difference of these times.
  sample->at = SteadyNow();
  CallScope call(global);
  return client->models().ListModels(call.get(), {}, &sample->models);
}

// Whether a whole group of workers is ready. A server that answers need not be serving.
bool IsServing(const StatusSample& sample) {
  return sample.info.group_state() == pb::GROUP_STATE_SERVING;
}

// Asks again and again until the server serves or `limit` has passed. Returns kExitOk,
// kExitInterrupted, or kExitUnavailable after printing the last reason to stderr (unless `quiet`).
int WaitUntilServing(const GlobalOptions& global, absl::Duration limit, bool quiet) {
  const SteadyTime end = SteadyNow() + limit;
  std::string reason;
  do {
    // A new channel for each try, since a channel that has failed waits before it connects again.
    Client client(global.server);
    StatusSample sample;
    // The rest of the limit: at least 100 ms for the last try and at most the timeout of a call.
    GlobalOptions short_call = global;
    short_call.timeout =
        std::min(std::max(end - SteadyNow(), absl::Milliseconds(100)), global.timeout);
    const grpc::Status status = Fetch(short_call, &client, &sample);
    if (WasCancelled()) return kExitInterrupted;
    if (status.ok() && IsServing(sample)) return kExitOk;
    // Only the last reason is printed, since earlier problems may be over.
    reason = status.ok() ? sample.info.group_detail() : WhyUnreachable(global.server);
    absl::SleepFor(std::min(kWaitPoll, std::max(absl::ZeroDuration(), end - SteadyNow())));
  } while (SteadyNow() < end && !WasCancelled());
  if (WasCancelled()) return kExitInterrupted;
  if (!quiet) {
    std::cerr << "bora: not serving after " << absl::FormatDuration(limit) << ": " << reason
              << std::endl;
  }
  return kExitUnavailable;
}

// The command `status --watch`: prints again every interval. On a terminal it shows a screen;
// elsewhere it prints blocks with an empty line between them; with --json one object per line.
// Owned by one thread.
class Watch {
 public:
  Watch(const GlobalOptions& global, const StatusOptions& options)
      : global_(global), options_(options), client_(global.server) {}

  // Returns kExitOk after q, kExitInterrupted after a signal, kExitFailed if stdout is closed.
  int Run() {
    while (true) {
      Print();
      const SteadyTime next = SteadyNow() + options_.interval;
      while (SteadyNow() < next && !WasCancelled()) {
        if (terminal_.has_value() && terminal_->WaitForQuit(kPoll)) return kExitOk;
        if (!terminal_.has_value()) absl::SleepFor(kPoll);
      }
      if (WasCancelled()) return kExitInterrupted;
      if (!std::cout) return kExitFailed;
    }
  }

 private:
  // Fetches a sample and prints one view of it, or the notice that the server cannot be reached.
  void Print() {
    StatusSample sample;
    const grpc::Status status = Fetch(global_, &client_, &sample);
    if (WasCancelled()) return;
    if (!status.ok()) return PrintAbsence(status);
    is_absent_ = false;
    if (global_.json) return PrintJson(sample.info, /*print_zeros=*/true);
    if (!terminal_.has_value()) terminal_.emplace();
    const bool has_rates = last_.has_value() && IsSameRun(*last_, sample);
    text_ = StatusText(sample, has_rates ? &*last_ : nullptr);
    last_ = std::move(sample);
    Show("");
  }

  // The server may come back soon, so an unreachable server does not end the command. Outside a
  // terminal its absence is printed once, not at every interval.
  void PrintAbsence(const grpc::Status& status) {
    const bool is_news = !is_absent_;
    is_absent_ = true;
    if (global_.json) {
      if (is_news) Report(global_, status);
      return;
    }
    if (!terminal_.has_value()) terminal_.emplace();
    // A server that comes back may have restarted: no rates across the gap.
    last_.reset();
    // gRPC's own message may list many addresses, so it is not shown.
    const std::string line = absl::StrCat("waiting for the server at ", global_.server);
    if (terminal_->is_screen()) {
      Show(line);
    } else if (is_news) {
      terminal_->Show(absl::StrCat(line, "\n"));
    }
  }

  // Shows text_; on a terminal with `notice` and the help on the last row.
  void Show(const std::string& notice) {
    if (!terminal_->is_screen()) return terminal_->Show(absl::StrCat(text_, "\n"));
    const TerminalSize size = terminal_->size();
    // The last row is for the notice; the text gets the rows above it, padded with empty ones.
    const int n_rows = std::max(1, size.rows - 1);
    std::string screen = FitText(text_, {size.columns, n_rows});
    const auto n_used = 1 + std::count(screen.begin(), screen.end(), '\n');
    screen.append(std::max<int64_t>(0, n_rows - n_used) + 1, '\n');
    absl::StrAppend(&screen, notice.empty() ? "q quits" : absl::StrCat(notice, "   q quits"));
    terminal_->Show(screen);
  }

  const GlobalOptions global_;
  const StatusOptions options_;
  Client client_;
  std::optional<Terminal> terminal_;
  std::optional<StatusSample> last_;  // previous sample, for rates; none after an absence
  std::string text_;                  // the last view, kept on the screen while the server is away
  bool is_absent_ = false;            // the last call failed
};

}  // namespace

int RunStatus(const GlobalOptions& global, const StatusOptions& options) {
  GlobalOptions with_timeout = global;
  with_timeout.timeout = std::min(with_timeout.timeout, kMaxCall);
  if (options.wait > absl::ZeroDuration()) {
    const int exit_code = WaitUntilServing(with_timeout, options.wait, options.ready);
    if (exit_code != kExitOk || options.ready) return exit_code;
  }
  if (options.watch && !options.ready) return Watch(with_timeout, options).Run();
  Client client(global.server);
  StatusSample sample;
  const grpc::Status status = Fetch(with_timeout, &client, &sample);
  // --ready has precedence over everything else and prints nothing.
  if (options.ready) return status.ok() && IsServing(sample) ? kExitOk : kExitUnavailable;
  if (!status.ok()) return Report(global, status);
  if (global.json) {
    PrintJson(sample.info, /*print_zeros=*/true);
  } else {
    std::cout << StatusText(sample, nullptr) << std::flush;
  }
  return kExitOk;
}

}  // namespace bora

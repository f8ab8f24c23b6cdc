#include "coordinator/api/reporter.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <utility>

#include "base/check.h"
#include "base/clock.h"
#include "base/log.h"
#include "coordinator/api/server_report.h"

namespace bora {
namespace {

constexpr int kTickMs = 1000;

}  // namespace

Reporter::Reporter(ReporterSources sources)
    : sources_(std::move(sources)), stop_event_(eventfd(0, EFD_CLOEXEC)) {
  CHECK(stop_event_.valid());
  thread_ = std::thread([this] { Run(); });
}

Reporter::~Reporter() {
  const uint64_t one = 1;
  CHECK_EQ(write(stop_event_.get(), &one, sizeof(one)), static_cast<ssize_t>(sizeof(one)));
  thread_.join();
}

void Reporter::Run() {
  ServerReport report(sources_.n_ranks);
  EngineWatch watch;
  bool live = true;
  pollfd stop = {stop_event_.get(), POLLIN, 0};
  do {
    sources_.flush_refusals();
    const auto lines =
        report.OnTick(SteadyNow().since_beginning(), sources_.snapshot(), sources_.take_call_stats);
    for (const ReportLine& line : lines) LogList(line.level, line.message, line.fields);
    const bool stalled = watch.IsStalled(sources_.engine_loop_count());
    if (stalled == live) {
      live = !stalled;
      Log(live ? LogLevel::kWarning : LogLevel::kError,
          live ? "the engine moves again" : "the engine does not move",
          {{"limit_s", EngineWatch::kStalledTicks}});
      sources_.set_live(live);
    }
  } while (poll(&stop, 1, kTickMs) <= 0);
  sources_.flush_refusals();
}

}  // namespace bora

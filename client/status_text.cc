#include "client/status_text.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "client/text.h"

namespace bora {
namespace {

namespace pb = inference::v1;

// Characters between the brackets of a bar.
constexpr int kBarWidth = 20;

// Formats bytes in binary units, with one decimal from KiB on: "1.5 GiB".
std::string Bytes(double bytes) {
  const char* units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
  int unit = 0;
  for (; bytes >= 1024 && unit < 4; ++unit) bytes /= 1024;
  return absl::StrFormat("%.*f %s", unit == 0 ? 0 : 1, bytes, units[unit]);
}

// An enum name in words: "GROUP_STATE_SERVING" with the prefix "GROUP_STATE_" gives "serving".
std::string Lower(const std::string& enum_name, const std::string& prefix) {
  std::string out = enum_name.substr(std::min(prefix.size(), enum_name.size()));
  for (char& ch : out) ch = ch == '_' ? ' ' : static_cast<char>(std::tolower(ch));
  return out;
}

// A bar such as "[####------]"; `part` is clamped to [0, 1].
std::string Bar(double part) {
  const int n = static_cast<int>(std::lround(std::clamp(part, 0.0, 1.0) * kBarWidth));
  return absl::StrCat("[", std::string(n, '#'), std::string(kBarWidth - n, '-'), "]");
}

// The share of `value` in `all`; 0 if `all` is 0.
double Part(double value, double all) { return all > 0 ? value / all : 0; }

// Formats a result of PercentileMs: "-" if nothing was counted (negative), "> 88 s" for the
// histogram's last bucket (infinity).
std::string Milliseconds(double ms) {
  if (ms < 0) return "-";
  if (std::isinf(ms)) return "> 88 s";
  if (ms >= 10000) return absl::StrFormat("%.1f s", ms / 1000);
  return absl::StrFormat("%.*f ms", ms < 10 ? 1 : 0, ms);
}

// Returns one line for each model (name, element type, layers, context), then lines with the state
// of the group of workers, its layout, epoch, and the server's version.
std::string ModelLines(const StatusSample& sample) {
  std::string out;
  for (const pb::Model& model : sample.models.models()) {
    const std::string quantization = model.quantization().empty()
                                         ? ""
                                         : absl::StrCat(" with ", model.quantization(), " weights");
    absl::StrAppendFormat(&out, "%s  %s%s, %d layers, context %d\n", model.name(), model.dtype(),
                          quantization, model.layer_count(), model.context_length());
  }
  const pb::ServerInfo& info = sample.info;
  absl::StrAppendFormat(&out, "%s  %d stages x %d tensor ranks  up %.0f s\n",
                        Lower(pb::GroupState_Name(info.group_state()), "GROUP_STATE_"),
                        info.pipeline_parallel_size(), info.tensor_parallel_size(),
                        Seconds(info.uptime()));
  if (!info.group_detail().empty()) absl::StrAppend(&out, "  ", info.group_detail(), "\n");
  absl::StrAppendFormat(&out, "epoch %d  version %s (%s)\n", info.epoch(), info.version(),
                        info.git_commit());
  return out;
}

// Returns lines with the numbers of requests and KV blocks at the time of the sample.
std::string LoadLines(const pb::ServerInfo& info) {
  const pb::Load& load = info.load();
  const double used = Part(load.kv_block_used_count(), load.kv_block_count());
  std::string out = absl::StrFormat("running   %s %d of %d, waiting %d of %d, steps in flight %d\n",
                                    Bar(Part(load.running_count(), info.max_num_seqs())),
                                    load.running_count(), info.max_num_seqs(), load.waiting_count(),
                                    info.max_num_queued_reqs(), load.step_in_flight_count());
  absl::StrAppendFormat(&out, "KV blocks %s %d of %d used (%.1f%%), %d cached\n", Bar(used),
                        load.kv_block_used_count(), load.kv_block_count(), 100 * used,
                        load.kv_block_cached_count());
  return out;
}

// Returns lines with rates and latencies of the time between the two samples.
std::string RateLines(const StatusSample& before, const StatusSample& sample) {
  const pb::Load& was = before.info.load();
  const pb::Load& is = sample.info.load();
  // At least a millisecond, so that two samples of the same time give no infinite rate.
  const double s = std::max(1e-3, absl::ToDoubleSeconds(sample.at - before.at));
  const auto rate = [s](int64_t from, int64_t to) { return static_cast<double>(to - from) / s; };
  std::string out = absl::StrFormat(
      "last %.1f s: %.1f output tokens/s, %.1f prompt tokens/s, %.1f "
      "requests/s\n",
      s, rate(was.output_token_total(), is.output_token_total()),
      rate(was.prompt_token_total(), is.prompt_token_total()),
      rate(was.finished_request_total(), is.finished_request_total()));
  const auto percentiles = [](const pb::LatencyHistogram& from, const pb::LatencyHistogram& to) {
    return absl::StrCat("p50 ", Milliseconds(PercentileMs(from, to, 0.5)), ", p99 ",
                        Milliseconds(PercentileMs(from, to, 0.99)));
  };
  absl::StrAppend(&out, "  first token ",
                  percentiles(was.time_to_first_token(), is.time_to_first_token()),
                  "   between tokens ", percentiles(was.token_gap(), is.token_gap()), "\n");
  return out;
}

// Returns lines with the counters since the server's start.
std::string TotalLines(const pb::Load& load) {
  std::string out = absl::StrFormat(
      "total: %d requests, %d output tokens, %d preemptions, %d steps\n"
      "  prompt tokens %d computed, %d more from the prefix cache\n",
      load.finished_request_total(), load.output_token_total(), load.preemption_total(),
      load.step_total(), load.prompt_token_total(), load.cached_prompt_token_total());
  // Of the time with a step in flight, the share in which each stage computed.
  if (const double busy_s = Seconds(load.busy_duration()); busy_s > 0) {
    absl::StrAppend(&out, "  stages computed");
    for (const google::protobuf::Duration& compute : load.stage_compute_durations()) {
      absl::StrAppendFormat(&out, " %.0f%%", 100 * Seconds(compute) / busy_s);
    }
    absl::StrAppendFormat(&out, " of %.1f busy seconds\n", busy_s);
  }
  return out;
}

// Returns a table with one row for each worker. The server reports stage -1 for a worker without a
// place in the layout; its row shows "-".
std::string WorkerLines(const pb::ServerInfo& info) {
  std::string out =
      absl::StrFormat("%-6s %-5s %-4s %-7s %-9s %-9s %-9s %-5s %s\n", "worker", "stage", "rank",
                      "layers", "state", "weights", "KV cache", "heard", "where");
  for (const pb::WorkerInfo& worker : info.workers()) {
    std::string state = Lower(pb::WorkerState_Name(worker.state()), "WORKER_STATE_");
    if (worker.state() == pb::WORKER_STATE_LOADING) {
      state = absl::StrFormat("load %.0f%%", worker.load_progress() * 100);
    }
    const bool placed = worker.stage() >= 0;
    absl::StrAppendFormat(
        &out, "%-6d %-5s %-4s %-7s %-9s %-9s %-9s %-5s %s pid %d %s\n", worker.worker_id(),
        placed ? absl::StrCat(worker.stage()) : "-",
        placed ? absl::StrCat(worker.tensor_rank()) : "-",
        placed ? absl::StrCat(worker.layer_begin(), "-", worker.layer_end() - 1) : "-", state,
        Bytes(static_cast<double>(worker.weight_bytes())),
        Bytes(static_cast<double>(worker.kv_cache_bytes())),
        absl::StrFormat("%.1fs", Seconds(worker.last_heartbeat_age())), worker.host(), worker.pid(),
        worker.device());
  }
  return out;
}

}  // namespace

double PercentileMs(const pb::LatencyHistogram& before, const pb::LatencyHistogram& after,
                    double part) {
  std::vector<int64_t> counts(after.counts().begin(), after.counts().end());
  int64_t total = 0;
  for (size_t i = 0; i < counts.size(); ++i) {
    if (static_cast<int>(i) < before.counts_size()) counts[i] -= before.counts(static_cast<int>(i));
    total += counts[i];
  }
  // No latency was counted between the samples.
  if (total <= 0) return -1;
  // The rank-th smallest latency, counted from 1, lies in the bucket where the running sum reaches
  // rank.
  const auto rank = static_cast<int64_t>(std::ceil(part * static_cast<double>(total)));
  int64_t n = 0;
  for (size_t i = 0; i + 1 < counts.size(); ++i) {
    n += counts[i];
    // Upper bound of bucket i in milliseconds, as LatencyHistogram defines it.
    if (n >= rank) return 0.1 * std::exp2(static_cast<double>(i) / 4);
  }
  return std::numeric_limits<double>::infinity();
}

bool IsSameRun(const StatusSample& before, const StatusSample& sample) {
  // A restart resets both; uptime alone could be larger again if the samples are far apart.
  return Seconds(sample.info.uptime()) >= Seconds(before.info.uptime()) &&
         sample.info.load().output_token_total() >= before.info.load().output_token_total();
}

std::string StatusText(const StatusSample& sample, const StatusSample* before) {
  std::string out = absl::StrCat(ModelLines(sample), LoadLines(sample.info));
  if (before != nullptr) out += RateLines(*before, sample);
  absl::StrAppend(&out, TotalLines(sample.info.load()), WorkerLines(sample.info));
  return out;
}

}  // namespace bora

"""Throughput, latency and cost of the whole service with the demo model, as `figure NAME VALUE UNIT` rows."""

import json
import subprocess
import sys
import time

import bench_process
from bora_e2e import Cluster, binary

NEIGHBOURS = bench_process.Neighbours()
CLOCK_LIMITS = {"coordinator_us_per_step_b1": 300.0, "coordinator_us_per_token_b32": 10.0, "idle_cpu_percent": 1.0}


def figure(name, value, unit):
    row = f"figure {name} {value:.4g} {unit}"
    if name in CLOCK_LIMITS:
        limit = CLOCK_LIMITS[name]
        row += f" limit {limit:g} ratio {limit / max(value, 1e-9):.2f}"
    print(row + bench_process.remark_on(NEIGHBOURS.take()), flush=True)


def load(cluster, concurrency, requests, output_tokens):
    """Runs the generator; returns its report and what the coordinator spent meanwhile."""
    before = cluster.stub.info().load
    cpu_before = cluster.coordinator.cpu_s()
    out = subprocess.run([
        binary("bora-bench-load"), f"--server=127.0.0.1:{cluster.port}", f"--concurrency={concurrency}",
        f"--requests={requests}", f"--output-tokens={output_tokens}", "--prompt-tokens=32"
    ], capture_output=True, text=True, timeout=300)
    if out.returncode != 0:
        sys.exit(f"the load generator failed: {out.stdout} {out.stderr}")
    # GetServerInfo counts up to its last refresh.
    time.sleep(0.2)
    after = cluster.stub.info().load
    return json.loads(out.stdout), {
        "cpu_s": cluster.coordinator.cpu_s() - cpu_before,
        "steps": after.step_total - before.step_total,
        "tokens": after.output_token_total - before.output_token_total,
    }


def main():
    for tp, pp in ((1, 1), (2, 2)):
        with Cluster(tp=tp, pp=pp) as cluster:
            load(cluster, 4, 8, 16)  # warm-up
            idle_begin, idle_cpu = time.monotonic(), sum(p.cpu_s() for p in cluster.processes)
            time.sleep(5)
            idle_percent = 100 * (sum(p.cpu_s() for p in cluster.processes) - idle_cpu) / (time.monotonic() - idle_begin)
            layout = f"tp{tp}_pp{pp}"
            for concurrency, requests, tokens in ((1, 6, 96), (8, 32, 64), (32, 96, 64)):
                report, spent = load(cluster, concurrency, requests, tokens)
                name = f"{layout}_b{concurrency}"
                figure(f"output_tokens_per_s_{name}", report["output_tokens_per_s"], "tokens/s")
                figure(f"ttft_p50_ms_{name}", report["ttft_p50_ms"], "ms")
                figure(f"ttft_p99_ms_{name}", report["ttft_p99_ms"], "ms")
                figure(f"inter_token_p50_ms_{name}", report["gap_p50_ms"], "ms")
                if (tp, pp) == (2, 2) and concurrency == 1:
                    figure("coordinator_us_per_step_b1", spent["cpu_s"] * 1e6 / spent["steps"], "us")
                if (tp, pp) == (2, 2) and concurrency == 32:
                    figure("coordinator_us_per_token_b32", spent["cpu_s"] * 1e6 / spent["tokens"], "us")
            if (tp, pp) == (2, 2):
                figure("idle_cpu_percent", idle_percent, "%")


if __name__ == "__main__":
    main()

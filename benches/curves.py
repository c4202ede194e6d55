#!/usr/bin/env python3
"""How ringway's cost grows, and what a client waits for: benches/CURVES.md.

CPU per request over threads, servers, clients, length of keys and rules, beside RESP3 and a page that is
asked for; latency under a paced load (paced.py); one client with large values (one_client.py). The points
of a curve take turns of a tenth of a second, A B C, C B A. Before a figure counts, the servers' and
ringway's own counters must show exactly the requests that were sent.
"""

import argparse
import dataclasses
import pathlib
import statistics
import subprocess
import time

import counts
import figures
import load
import one_client
import paced
import rig
from figures import ROWS, Row, Sample, Section
from rig import Setup

PAGES = 200
# A curve with a promise, which may be about a few hundredths, has so many times the rounds of others.
BAR_ROUNDS = 3


@dataclasses.dataclass(frozen=True)
class Point:
    """What is asked of which ringway, and whether its metrics are fetched once a second meanwhile."""

    name: str
    row: Row
    setup: Setup
    fetched: bool = False


@dataclasses.dataclass(frozen=True)
class Curve:
    """Points of one part that differ in one thing; `most` is what each may cost in relation to the first."""

    part: str
    points: tuple[Point, ...]
    most: float | None = None
    pinned: bool = True

    @property
    def name(self) -> str:
        return f"{self.part}, {self.points[0].row.name}"


# What each part is called, and what one has to know of it; {page} is CPU milliseconds.
PARTS = {
    "threads": ("Threads of the proxy, unpinned",
                "The load has two threads at both, so that it is not what is measured; it looks at its clock four "
                "times a second, so its speed is a rough figure."),
    "backends": ("Servers", ""),
    "clients": ("Clients", "The load generator, which shares the core, has as many sockets as the proxy."),
    "keys": ("Bytes of a key", "The load generator makes no key shorter than its number of 12 digits."),
    "rules": ("Colocate rules",
              "Rules such as `app7:{{*}}:*`, which no key of the load fits, but for the last one of the last row: "
              "`key:{{*}}`."),
    "protocol": ("Protocol", ""),
    "metrics": ("The metrics' page",
                "Counting cannot be turned off; this is what asking costs. One page takes {page} ms of CPU, and a "
                "sample is long enough for some of them."),
}
P1, P16 = (next(row for row in ROWS if row.name == name) for name in ("GET P1", "GET P16"))
USUAL = Setup("usual", backends=3)


def over_rows(part: str, row: Row, values: dict[str, dict], most: float | None = None) -> Curve:
    """A curve over fields of the row."""
    points = (Point(value, dataclasses.replace(row, **fields), USUAL) for value, fields in values.items())
    return Curve(part, tuple(points), most)


def over_setups(part: str, row: Row, setups: dict[str, Setup], most: float | None = None, pinned: bool = True) -> Curve:
    """A curve over ringways."""
    return Curve(part, tuple(Point(name, row, setup) for name, setup in setups.items()), most, pinned)


def rules(count: int, last: str = "") -> Setup:
    """So many rules that fit no key of the load, but for `last`."""
    patterns = [f"app{i}:{{*}}:*" for i in range(count)]
    if last:
        patterns[-1] = last
    settings = "".join(f'[[colocate]]\npattern = "{pattern}"\n' for pattern in patterns)
    return Setup(f"rules-{count}{'-match' if last else ''}", 3, settings=settings)


def fetched(row: Row, factor: float) -> Curve:
    """The same ringway, with and without somebody who asks for its metrics."""
    row = dataclasses.replace(row, factor=factor)
    return Curve("metrics", (Point("nobody asks", row, USUAL), Point("once a second", row, USUAL, fetched=True)), 1.03)


THREADS = {f"{count}": Setup(f"threads-{count}", 3, threads=count) for count in (1, 2)}
BACKENDS = {f"{count}": Setup(f"backends-{count}", count) for count in (3, 6, 12, 30)}
RULES = {f"{count}": rules(count) for count in (0, 1, 5, 30)} | {"30, one fits": rules(30, "key:{*}")}
PROTOCOLS = {"RESP2": {}, "RESP3": {"resp3": True}}
CURVES = (
    over_setups("threads", dataclasses.replace(P1, threads=2, factor=2), THREADS, 1.10, pinned=False),
    over_setups("threads", dataclasses.replace(P16, threads=2, factor=8), THREADS, 1.35, pinned=False),
    over_setups("backends", P16, BACKENDS),
    over_rows("clients", P1, {f"{count:,}": {"clients": count} for count in (50, 500, 2_000, 5_000)}),
    over_rows("keys", P16, {f"{size:,}": {"key_bytes": size} for size in (12, 100, 1_024)}),
    over_setups("rules", P16, RULES),
    over_rows("protocol", P1, PROTOCOLS, 1.05),
    over_rows("protocol", P16, PROTOCOLS, 1.05),
    fetched(P1, 3),
    fetched(P16, 24),
)


def fill(where: rig.Rig, points: list[Point]) -> None:
    """Gives each server the keys of the points that it takes part in."""
    done = 0
    for count in sorted({point.setup.backends for point in points}):
        load.fill(where.backends[done:count], [point.row for point in points if point.setup.backends >= count])
        done = count


@dataclasses.dataclass(frozen=True)
class Measured:
    """Samples of all rounds, system calls per request by curve and point, and CPU milliseconds of one page
    of metrics."""

    samples: list[Sample]
    calls: dict[tuple[str, str], float]
    page_ms: float


def measure(curves: list[Curve], options: argparse.Namespace) -> Measured:
    """Every point of the curves, before one set of servers."""
    points = [point for curve in curves for point in curve.points]
    calls: dict[tuple[str, str], float] = {}
    samples: list[Sample] = []
    with rig.Rig(rig.last_core() if curves[0].pinned else None) as where:
        where.start_backends(max(point.setup.backends for point in points))
        fill(where, points)
        proxies = {setup: where.start("ringway", setup=setup) for setup in dict.fromkeys(p.setup for p in points)}
        for curve in curves:
            for point in curve.points:
                requests = point.row.requests(counts.SYSCALL_UNIT)
                calls[curve.name, point.name] = load.net_syscalls(proxies[point.setup], point.row, requests, where)
        for turn in range(options.rounds * BAR_ROUNDS):
            for curve in curves:
                if turn >= options.rounds and not curve.most:
                    continue
                for taken in load.net_beside([contestant(point, proxies[point.setup], options.requests)
                                              for point in curve.points], where, turn):
                    samples.append(dataclasses.replace(taken, row=curve.name))
                    rig.keep(options.raw, dataclasses.asdict(samples[-1]))
            rig.say(f"curves: round {turn + 1} of {options.rounds * BAR_ROUNDS}")
        return Measured(samples, calls, page_cost(next(iter(proxies.values()))))


def contestant(point: Point, proxy: rig.Proxy, unit: int) -> load.Load:
    return load.Load(point.name, proxy, point.row, point.row.requests(unit),
                     (lambda: rig.metrics(proxy)) if point.fetched else None)


def page_cost(proxy: rig.Proxy) -> float:
    """CPU milliseconds that one page of metrics takes."""
    before = rig.cpu_ns(proxy.pid)
    for _ in range(PAGES):
        rig.metrics(proxy)
    return (rig.cpu_ns(proxy.pid) - before) / 1e6 / PAGES


def section(part: str, curves: list[Curve], measured: Measured) -> Section:
    """One table for all curves of a part."""
    title, text = PARTS[part]
    lines, bars = [], []
    for curve in curves:
        first, *others = names = [point.name for point in curve.points]
        taken = figures.select(measured.samples, row=curve.name)
        ratios = {name: figures.ratios(taken, name, first) for name in names}
        for point in curve.points:
            ours = figures.select(taken, proxy=point.name)
            lines.append([
                f"{point.row.name}: {point.name}", str(figures.spread([s.cpu for s in ours])),
                str(figures.spread(ratios[point.name])), figures.number(measured.calls[curve.name, point.name]),
                str(figures.spread([s.rps / 1000 for s in ours]))])
        if curve.most:
            found = {f'"{name}"': statistics.median(ratios[name]) for name in others}
            promise = f'{curve.name}: CPU per request at most {{}} of that at "{first}"'
            bars.append(figures.verdict(promise, found, curve.most))
    head = ["", "CPU s per million requests", "of the first", "system calls per request", "thousand requests/s"]
    text = text.format(page=figures.number(measured.page_ms))
    return Section(title, bars, f"{text}\n\n{figures.table(head, lines)}".lstrip())


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=(*PARTS, "paced", "one-client"), action="append", help="default: all")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=60_000, help="per sample at P1; others in proportion")
    parser.add_argument("--paced-rounds", type=int, default=9)
    parser.add_argument("--paced-turns", type=int, default=20, help="of a round, at each proxy")
    parser.add_argument("--paced-seconds", type=float, default=0.1, help="of a turn")
    parser.add_argument("--repetitions", type=int, default=40, help="of one client's errands")
    parser.add_argument("--out", type=pathlib.Path, default=rig.ROOT / "benches/CURVES.md")
    parser.add_argument("--quick", action="store_true", help="one short round: whether it works, not the figures")
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.requests, options.paced_rounds, options.repetitions = 1, 3_000, 2, 2
    options.raw = rig.raw_file()
    return options


def sections(options: argparse.Namespace) -> list[Section]:
    """All parts that are wanted, one after another."""
    wanted = options.only or (*PARTS, "paced", "one-client")
    found = []
    # Nobody else's unpinned threads are to be beside those that are measured.
    for pinned in (False, True):
        if curves := [curve for curve in CURVES if curve.pinned == pinned and curve.part in wanted]:
            measured = measure(curves, options)
            for part in dict.fromkeys(curve.part for curve in curves):
                found.append(section(part, [curve for curve in curves if curve.part == part], measured))
    if "paced" in wanted:
        found.append(paced.section(options.paced_rounds, options.paced_turns, options.paced_seconds, options.raw))
    if "one-client" in wanted:
        found.append(one_client.section(options.repetitions, options.raw))
    return found


def main() -> int:
    options = arguments()
    start = time.monotonic()
    try:
        # The proxy, which inherits it, needs a socket for each client, and some.
        rig.raise_fd_limit(2 * max(point.row.clients for curve in CURVES for point in curve.points))
        found = sections(options)
    except (rig.Broken, subprocess.CalledProcessError) as err:
        rig.say(f"curves: {err}")
        return 1
    head = rig.heading("How the cost grows", "bench-curves", time.monotonic() - start)
    head += (f"\n{options.rounds} rounds, {options.rounds * BAR_ROUNDS} where there is a bar, in each of which the "
             f"points of a curve take turns of {load.TURN_SECONDS:g} s, A B B A; one worker, three servers and 50 "
             "clients unless said, and all processes on one core. A cell is the median and, in brackets, the least and "
             "the most; a ratio is that of two samples of the same round. What it costs that clients come and go is "
             "taken off: a sample is the difference between a run and one in which each client asks once. System calls "
             "are counted under strace, which makes batches larger.\n")
    rig.write(options.out, figures.page(head, found))
    rig.say(f"{options.out} is written; raw samples: {options.raw}")
    print("\n".join(bar for one in found for bar in one.bars))
    return 0


if __name__ == "__main__":
    rig.run(main)

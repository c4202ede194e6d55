#!/usr/bin/env python3
"""What a request costs in counts, which a busy machine does not change: benches/COUNTS.json.

User-space instructions come from callgrind, for the whole process and for the engine alone
(benches/engine.rs); system calls from strace. Each is the difference between a long and a short run, so
that starting, connecting and ending cancel out. Without --write the figures are compared with those of
the file, and one that grew by more than its tolerance fails.
"""

import argparse
import json
import pathlib
import subprocess

import figures
import load
import rig

# Requests of the passes, in figures.Row's units.
SYSCALL_UNIT = 4_000
INSTRUCTION_UNIT = 2_000
ENGINE_ROUNDS = (20, 120)

COUNTED = ("GET P1", "GET P16", "SET P16", "MGET 10", "MSET 10")
FILE = rig.ROOT / "benches/COUNTS.json"
# How much a figure may grow. The engine alone does the same work every time; with sockets, which
# requests meet in one batch is up to the kernel.
TOLERANCE = {"engine": 0.02, "instructions": 0.08, "syscalls": 0.15}


def syscalls(kind: str, rows: list[figures.Row]) -> dict[str, float]:
    """System calls per request of each row."""
    with rig.Rig(rig.last_core()) as where:
        where.start_backends()
        load.fill(where.backends, rows)
        proxy = where.start(kind)
        return {row.name: load.net_syscalls(proxy, row, row.requests(SYSCALL_UNIT), where) for row in rows}


def callgrind(out: pathlib.Path) -> list[str]:
    return ["valgrind", "--tool=callgrind", f"--callgrind-out-file={out}"]


def instructions(kind: str, rows: list[figures.Row], keep: pathlib.Path | None = None) -> dict[str, float]:
    """User-space instructions per request of the whole process; the long run's profile stays in `keep`."""
    counts = {}
    for row in rows:
        short, long = row.requests(INSTRUCTION_UNIT), row.requests(INSTRUCTION_UNIT * 3)
        totals = []
        for requests in (short, long):
            with rig.Rig(rig.last_core()) as where:
                where.start_backends()
                load.fill(where.backends, [row])
                out = where.dir / "callgrind.out"
                proxy = where.start(kind, callgrind(out))
                load.send(proxy, row, requests, where.core)
                rig.end(proxy.process, patience=60)
                totals.append(figures.parse_instructions(out.read_text()))
                if keep:
                    keep.mkdir(parents=True, exist_ok=True)
                    (keep / f"{row.name}.{requests}.callgrind").write_text(out.read_text())
        counts[row.name] = (totals[1] - totals[0]) / (long - short)
        rig.say(f"{kind}, {row.name}: {counts[row.name]:,.0f} instructions per request")
    return counts


def engine() -> dict[str, float]:
    """Instructions per request of the engine's works, each the difference of two runs."""
    binary = engine_binary()
    works = subprocess.run([binary, "--works"], stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines()
    counted = {}
    with rig.Rig() as where:
        for work in works:
            passes = []
            for rounds in ENGINE_ROUNDS:
                out = where.dir / "engine.out"
                done = subprocess.run([*callgrind(out), binary, "--count", work, str(rounds)], check=True,
                                      stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
                passes.append((figures.parse_instructions(out.read_text()), int(done.stdout)))
            (less, few), (more, many) = passes
            counted[work] = (more - less) / (many - few)
    return counted


def engine_binary() -> str:
    """Builds benches/engine.rs, and says where it lies."""
    done = subprocess.run(["cargo", "bench", "--bench", "engine", "--no-run", "--message-format=json"], cwd=rig.ROOT,
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, check=True, text=True)
    built = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return next(one["executable"] for one in built
                if one.get("executable") and one["target"]["name"] == "engine")


def compared(kept: dict[str, dict[str, float]], now: dict[str, dict[str, float]]) -> tuple[list[str], list[str]]:
    """A line for each figure, and one for each that grew by more than its tolerance or is not known."""
    lines, wrong = [], []
    for kind, figures_now in now.items():
        for name, value in figures_now.items():
            before = kept.get(kind, {}).get(name)
            change = "new" if before is None else f"{(value / before - 1) * 100:+.1f} %"
            lines.append(f"{kind:13}{name:26}{figures.number(value):>9}  {change}")
            if before is None:
                wrong.append(f"{kind}, {name}: not in {FILE.name}")
            elif value > before * (1 + TOLERANCE[kind]):
                wrong.append(f"{kind}, {name}: {figures.number(before)} before, {figures.number(value)} now")
    return lines, wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=tuple(TOLERANCE), action="append", help="default: all")
    parser.add_argument("--write", action="store_true", help=f"keep the figures in {FILE.name}")
    parser.add_argument("--profiles", type=pathlib.Path, help="keep callgrind's files of the whole process here")
    options = parser.parse_args()
    rows = [row for row in figures.ROWS if row.name in COUNTED]
    takers = {
        "engine": engine,
        "instructions": lambda: instructions("ringway", rows, options.profiles),
        "syscalls": lambda: syscalls("ringway", rows),
    }
    try:
        now = {kind: takers[kind]() for kind in options.only or TOLERANCE}
    except (rig.Broken, subprocess.CalledProcessError) as err:
        rig.say(f"counts: {err}")
        return 1
    kept = json.loads(FILE.read_text()) if FILE.exists() else {}
    lines, wrong = compared(kept, now)
    print("\n".join(lines))
    if options.write:
        rounded = {kind: {name: round(value, 3 if kind == "syscalls" else 1) for name, value in found.items()}
                   for kind, found in now.items()}
        FILE.write_text(json.dumps(kept | rounded, indent=2) + "\n")
        return 0
    for line in wrong:
        rig.say(f"counts: {line}")
    if wrong:
        rig.say("counts: if it is meant, record it: python3 benches/counts.py --write")
    return 1 if wrong else 0


if __name__ == "__main__":
    rig.run(main)

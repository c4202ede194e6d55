#!/usr/bin/env python3
"""Redis' own test suite against Ringway, held against what plain Redis passes.

Without arguments: all files in all three settings, a table, target/conformance/results.json, and exit
code 1 when the failing tests are not exactly those of expected.md. A test that differs is run again,
three times, against both, alone and then with its file: a failure is what Ringway fails wherever plain
Redis always passes.
"""

import argparse
import collections
import concurrent.futures
import hashlib
import json
import os
import pathlib
import queue
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import lane
import lists
import output
import suite

DENOMINATOR_MIN = 1750
SHARE_MIN = 0.15
AGAIN = 3
# They take longest and go first.
SLOW = ("unit/geo", "unit/type/list", "unit/scripting", "unit/sort", "unit/hyperloglog", "unit/type/zset",
        "unit/type/set", "unit/expire", "unit/dump", "unit/limits", "unit/pause", "unit/bitops")


class Lanes:
    """A few lanes side by side, each with servers of its own."""

    def __init__(self, tree: pathlib.Path, logs: pathlib.Path, count: int) -> None:
        self.pool = concurrent.futures.ThreadPoolExecutor(count)
        self.free: queue.SimpleQueue[lane.Lane] = queue.SimpleQueue()
        for number in range(count):
            # The same file may run in two lanes at once.
            own = logs / f"lane-{number}"
            own.mkdir(parents=True, exist_ok=True)
            self.free.put(lane.Lane(tree, own))

    def submit(self, *arguments: object) -> concurrent.futures.Future:
        def work() -> lane.Result:
            mine = self.free.get()
            try:
                return mine.file(*arguments)
            finally:
                self.free.put(mine)
        return self.pool.submit(work)

    def run(self, units: list[str], settings: list[lane.Setting], plain: bool) -> dict[tuple[str, str], lane.Result]:
        """Every file in every setting; keys are setting and file."""
        order = sorted(units, key=lambda unit: (SLOW.index(unit) if unit in SLOW else len(SLOW), unit))
        waiting = {self.submit(unit, setting, plain): (setting.name, unit)
                   for unit in order for setting in settings}
        results = {}
        start = time.monotonic()
        for done in concurrent.futures.as_completed(waiting):
            key = waiting[done]
            results[key] = done.result()
            passed = sum(verdict == output.PASSED for verdict, _ in results[key].tests.values())
            count = len(results[key].tests)
            if count:
                print(f"{time.monotonic() - start:6.0f} s  {'plain ' if plain else ''}{key[0]}  {key[1]:<28} "
                      f"{passed} of {count}", flush=True)
        return results


def measure(lanes: Lanes, units: list[str], settings: list[lane.Setting]) -> dict[str, list[lists.Test]]:
    """What plain Redis passes in two runs, by setting."""
    first, second = (lanes.run(units, settings, plain=True) for _ in range(2))
    tests: dict[str, list[lists.Test]] = {}
    for setting in settings:
        tests[setting.name] = [
            (unit, test) for unit in units for test, (verdict, _) in first[setting.name, unit].tests.items()
            if verdict == output.PASSED and second[setting.name, unit].tests.get(test, ("",))[0] == output.PASSED
        ]
    return tests


def fails_again(lanes: Lanes, test: lists.Test, setting: lane.Setting) -> tuple[bool, str]:
    """Whether Ringway fails a test again at least once of three where plain Redis never does, and what was seen.

    First alone. What fails there, or plain Redis does not pass alone, is run with what stands before it."""
    unit, name = test
    fails, seen = False, []
    for where, only in (("alone", [name]), ("with its file", None)):
        runs = {plain: [lanes.submit(unit, setting, plain, only) for _ in range(AGAIN)] for plain in (True, False)}
        passes = {plain: sum(run.result().tests.get(name, ("",))[0] == output.PASSED for run in runs[plain])
                  for plain in runs}
        seen.append(f"{where}: plain Redis {passes[True]} of {AGAIN}, Ringway {passes[False]}")
        if passes[True] == AGAIN:
            fails = passes[False] < AGAIN
            if not fails:
                break
    return fails, "; ".join(seen)


def judge(lanes: Lanes, setting: lane.Setting, results: dict, denominator: list[lists.Test],
          listed: dict[lists.Test, str], units: list[str]) -> tuple[set[lists.Test], list[str]]:
    """The failures of a setting, and what is wrong with them."""
    def detail(test: lists.Test) -> tuple[str, str]:
        return results[setting.name, test[0]].tests.get(test[1], ("missing", "it never began"))

    counted = [test for test in denominator if test[0] in units]
    failed = {test for test in counted if detail(test)[0] != output.PASSED}
    listed_here = {test for test in listed if test[0] in units}
    wrong = []
    for way, tests in lists.differences(failed, listed_here, set(counted)).items():
        # The three runs of all of them side by side.
        with concurrent.futures.ThreadPoolExecutor(max(len(tests), 1)) as pool:
            again = list(pool.map(lambda test: fails_again(lanes, test, setting), tests))
        for test, (fails, seen) in zip(tests, again):
            (failed.add if fails else failed.discard)(test)
            line = f"{setting.name}  {test[0]}  {test[1]}: {way}; {seen}"
            if fails == (test in listed_here):
                print(f"reported  {line}")
            else:
                wrong.append(f"{line}; {' '.join(detail(test))}")
    return failed, wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--setting", action="append", choices=list(lane.SETTINGS), help="only this one (repeatable)")
    parser.add_argument("--unit", action="append", help="only this file, such as unit/type/list (repeatable)")
    parser.add_argument("--only", action="append", help="only this test of it (repeatable)")
    parser.add_argument("--plain", action="store_true", help="with --unit: plain Redis in Ringway's place")
    parser.add_argument("--lanes", type=int, default=2, help="files at a time (default 2)")
    parser.add_argument("--denominator", action="store_true", help="measure plain Redis twice and write denominator.txt")
    options = parser.parse_args()
    settings = [lane.SETTINGS[name] for name in options.setting or lane.SETTINGS]
    suite.HOME.mkdir(parents=True, exist_ok=True)

    # Of this run alone: several may go on at a time.
    with tempfile.TemporaryDirectory(prefix="suite-", dir=suite.HOME) as directory:
        tree = pathlib.Path(directory, "redis")
        suite.fetched(tree)
        return run(tree, settings, options, parser)


def run(tree: pathlib.Path, settings: list[lane.Setting], options: argparse.Namespace,
        parser: argparse.ArgumentParser) -> int:
    checksums = suite.checksums(tree)
    logs = suite.HOME / ("logs-of-units" if options.unit else "logs")
    if not options.unit:
        shutil.rmtree(logs, ignore_errors=True)
        print("".join(f"{checksum}  {path}\n" for path, checksum in checksums.items()), end="")
    whole = hashlib.sha256("".join(f"{c} {p}\n" for p, c in checksums.items()).encode()).hexdigest()
    os.environ.setdefault("RINGWAY", str(suite.ROOT / "target/debug/ringway"))
    lanes = Lanes(tree, logs, options.lanes)
    known = suite.units(tree)
    if unknown := set(options.unit or ()) - set(known):
        parser.error(f"no such file: {', '.join(sorted(unknown))}")
    units = options.unit or known

    if options.denominator:
        tests = measure(lanes, known, list(lane.SETTINGS.values()))
        version = subprocess.run(["redis-server", "--version"], stdout=subprocess.PIPE, text=True).stdout.split()[2]
        lists.DENOMINATOR.write_text(lists.write_denominator(
            whole, tests, f"What plain Redis ({version}) passes of its own suite in two runs: settings, file, test."))
        print("\n".join(f"{name}  {len(tests[name])}" for name in sorted(tests)))
        return 0
    if options.unit and (options.only or options.plain):
        return show(lanes, units, settings, options)

    checksum, denominator = lists.read_denominator(lists.DENOMINATOR.read_text())
    if checksum != whole:
        print("the suite is another one than denominator.txt was measured with: measuring plain Redis again", flush=True)
        denominator = measure(lanes, units, settings)
    expected = lists.read_expected(lists.EXPECTED.read_text())
    results = lanes.run(units, settings, plain=False)
    return conclude(lanes, settings, results, denominator, expected, units, whole=not options.unit)


def show(lanes: Lanes, units: list[str], settings: list[lane.Setting], options: argparse.Namespace) -> int:
    """For work on single tests: each verdict as it is, nothing is judged."""
    bad = 0
    for unit in units:
        for setting in settings:
            result = lanes.submit(unit, setting, options.plain, options.only).result()
            for test, (verdict, detail) in result.tests.items():
                print(f"{setting.name}  {verdict:<7} {test}  {detail}")
                bad += verdict != output.PASSED
            for line in result.outside + result.faults:
                print(f"{setting.name}  outside a test: {line}")
    return 1 if bad else 0


def conclude(lanes: Lanes, settings: list[lane.Setting], results: dict, denominator: dict, expected: dict,
             units: list[str], whole: bool) -> int:
    wrong, rows, machine = [], [], {}
    for setting in settings:
        counted = [test for test in denominator[setting.name] if test[0] in units]
        failed, differing = judge(lanes, setting, results, counted, expected[setting.name], units)
        wrong += differing
        mine = {unit: results[setting.name, unit] for unit in units}
        requests = sum((result.requests for result in mine.values()), collections.Counter())
        shares = {name: count / max(requests.total(), 1) for name, count in sorted(requests.items())}
        wrong += [f"{setting.name}  {fault}" for result in mine.values() for fault in result.faults]
        if whole and setting.shards > 1 and (len(shares) < setting.shards or min(shares.values()) < SHARE_MIN):
            wrong.append(f"{setting.name}  a shard has less than {SHARE_MIN:.0%} of the requests: {shares}")
        passed = len(counted) - len(failed)
        rows.append((setting, len(counted), passed, len(failed), shares))
        machine[setting.name] = {
            "words": setting.words, "shares": shares, "denominator": len(counted), "passed": passed,
            "outside": {unit: result.outside for unit, result in mine.items() if result.outside},
            "tests": [{"file": unit, "test": test, "passed": (unit, test) not in failed,
                       "detail": mine[unit].tests.get(test, ("missing", "it never began"))[1]}
                      for unit, test in counted],
        }
    if whole and len(denominator.get("a", ())) < DENOMINATOR_MIN:
        wrong.append(f"plain Redis passes {len(denominator.get('a', ()))} tests, {DENOMINATOR_MIN} expected")
    path = suite.HOME / "results.json"
    path.write_text(json.dumps(machine, indent=1))
    print(f"\n{'setting':<36}{'plain Redis':>12}{'Ringway':>9}{'fails':>7}{'':>8}  requests by shard")
    for setting, count, passed, fails, shares in rows:
        print(f"{setting.name}: {setting.words:<33}{count:>12}{passed:>9}{fails:>7}{passed / max(count, 1):>8.1%}  "
              + " ".join(f"{share:.0%}" for share in shares.values()))
    print(f"each test: {path}")
    for line in wrong:
        print(f"WRONG  {line}")
    return 1 if wrong else 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        sys.exit(main())
    except (suite.Broken, lists.Malformed, lane.rig.Broken) as err:
        print(f"conformance: {err}", file=sys.stderr)
        sys.exit(1)

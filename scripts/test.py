#!/usr/bin/env python3
"""Builds the tests and runs their binaries two at a time: scripts/test.py [--long] [NAME...]

cargo runs test binaries one after another; ours mostly wait for servers, so two side by side take
little more than half the time. Each binary gets a time limit and a session of its own: whatever of
that session is still there after it ended is killed and counts as a failure, since nothing may
outlive a test. Files tests/long_*.rs are run by --long only. The closing line is
"N passed, N failed".
"""

import argparse
import concurrent.futures
import dataclasses
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
RESULT = re.compile(r"^test result: \w+\. (\d+) passed; (\d+) failed; (\d+) ignored", re.MULTILINE)
# How long a binary's processes may take to die after it has ended.
LINGER_SECONDS = 5.0
# Sessions of the binaries that run now: an interrupt does not reach them by itself.
running: set[int] = set()


@dataclasses.dataclass(frozen=True)
class Job:
    """One test binary, or the documentation's tests."""

    name: str
    argv: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Outcome:
    job: Job
    output: str
    seconds: float
    passed: int
    failed: int
    # What went wrong besides failed tests; empty when nothing did.
    faults: tuple[str, ...]


def integration_tests(long: bool) -> list[str]:
    """The names of the files in tests/ that this run is for, from cargo itself."""
    out = subprocess.run(
        ["cargo", "metadata", "--no-deps", "--format-version", "1"],
        cwd=ROOT, check=True, stdout=subprocess.PIPE,
    ).stdout
    targets = json.loads(out)["packages"][0]["targets"]
    names = sorted(t["name"] for t in targets if "test" in t["kind"])
    return [name for name in names if name.startswith("long_") == long]


def build(targets: list[str]) -> list[Job]:
    """Builds the given targets' tests and says where the binaries are; exits when it fails."""
    done = subprocess.run(
        ["cargo", "test", "--no-run", "--message-format=json-render-diagnostics", *targets],
        cwd=ROOT, stdout=subprocess.PIPE,
    )
    if done.returncode != 0:
        print("the tests did not build\n0 passed, 1 failed")
        sys.exit(1)
    messages = (json.loads(line) for line in done.stdout.splitlines())
    return [
        Job("/".join((m["target"]["kind"][0], m["target"]["name"])), (m["executable"],))
        for m in messages
        if m["reason"] == "compiler-artifact" and m["profile"]["test"] and m["executable"]
    ]


def session_members(session: int) -> list[int]:
    """Processes of a session that are not dead yet; the leader's own zombie does not count."""
    members = []
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            stat = pathlib.Path("/proc", entry, "stat").read_text()
        except OSError:
            continue
        # The name, in brackets, may hold anything; behind it: state, parent, group, session.
        state, _, _, sid = stat.rpartition(")")[2].split()[:4]
        if int(sid) == session and state not in "ZX":
            members.append(int(entry))
    return members


def kill_session(session: int) -> None:
    for pid in session_members(session):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass


def run(job: Job, arguments: list[str], limit: float) -> Outcome:
    faults = []
    start = time.monotonic()
    # A file and not a pipe: a process left behind would keep a pipe open for ever.
    with tempfile.TemporaryFile() as out:
        child = subprocess.Popen(
            [*job.argv, *arguments], cwd=ROOT, stdin=subprocess.DEVNULL, stdout=out, stderr=out,
            env=os.environ | {"CARGO_MANIFEST_DIR": str(ROOT)}, start_new_session=True,
        )
        running.add(child.pid)
        try:
            code = child.wait(limit)
            deadline = time.monotonic() + LINGER_SECONDS
            while session_members(child.pid) and time.monotonic() < deadline:
                time.sleep(0.05)
            if left := session_members(child.pid):
                faults.append(f"{len(left)} processes outlived the tests")
        except subprocess.TimeoutExpired:
            code = 0
            faults.append(f"not done after {limit:.0f} s, killed")
        finally:
            kill_session(child.pid)
            child.wait()
            running.discard(child.pid)
        seconds = time.monotonic() - start
        out.seek(0)
        output = out.read().decode(errors="replace")
    passed, failed, ignored = (sum(map(int, column)) for column in zip((0, 0, 0), *RESULT.findall(output)))
    if ignored:
        faults.append(f"{ignored} tests are ignored")
    if code != 0 and failed == 0:
        faults.append(f"ended with exit code {code}")
    return Outcome(job, output, seconds, passed, failed, tuple(faults))


def report(outcome: Outcome) -> None:
    bad = outcome.failed or outcome.faults
    if bad:
        print(f"---- {outcome.job.name}\n{outcome.output.rstrip()}\n----")
    words = [f"{outcome.passed} ok"]
    if outcome.failed:
        words.append(f"{outcome.failed} FAILED")
    words += [f"FAULT: {fault}" for fault in outcome.faults]
    print(f"{outcome.job.name:<28} {', '.join(words)} ({outcome.seconds:.1f} s)", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--long", action="store_true", help="tests/long_*.rs and nothing else")
    parser.add_argument("--jobs", type=int, default=2, help="binaries at a time (default 2)")
    parser.add_argument("--limit", type=float, help="seconds for each binary (default 600, with --long 2400)")
    parser.add_argument("--filter", action="append", default=[], help="only tests whose name contains it")
    parser.add_argument("names", nargs="*", help="only these files of tests/, without .rs")
    options = parser.parse_args()

    limit = options.limit or (2400 if options.long else 600)
    tests = integration_tests(options.long)
    if unknown := set(options.names) - set(tests):
        parser.error(f"no such test file: {', '.join(sorted(unknown))}")
    tests = options.names or tests
    targets = [word for name in tests for word in ("--test", name)]
    whole = not options.long and not options.names
    if whole:
        targets += ["--lib", "--bins"]
    jobs = build(targets) if targets else []
    if whole:
        jobs.append(Job("doc", ("cargo", "test", "--quiet", "--doc", "--")))

    if not jobs:
        print("nothing to run")
        return 0

    with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        waiting = [pool.submit(run, job, options.filter, limit) for job in jobs]
        outcomes = []
        try:
            for done in concurrent.futures.as_completed(waiting):
                outcomes.append(done.result())
                report(outcomes[-1])
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for session in list(running):
                kill_session(session)
            raise
    passed = sum(o.passed for o in outcomes)
    failed = sum(o.failed + len(o.faults) for o in outcomes)
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    sys.exit(main())

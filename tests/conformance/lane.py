"""One file of the suite against one server of its own: fresh redis-servers, a fresh proxy, and the
suite as a process with its hang limit. What ends the file early is worked around by running it
again without the tests that failed, so that the rest still runs."""

import collections
import contextlib
import dataclasses
import os
import pathlib
import re
import signal
import subprocess
import sys
import threading
import urllib.request

import output

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "benches"))
import rig  # noqa: E402

# Part of what is measured, so not an option: what no server behind a proxy lets its clients do.
DENIED = ("needs:repl", "needs:debug", "needs:pfdebug", "needs:save", "needs:config-maxmemory", "needs:config-resetstat")
# The suite's user may do everything, as Redis' default user may. It does not know RINGWAY SHARD.
ADMIN = "[commands]\nadmin = true\n"
HANG_SECONDS = 60
# For a file with several hanging tests in one run, each of which ends the run.
FILE_SECONDS_MAX = 900
ROUNDS_MAX = 25
STARTS_MAX = 3
# Ports are asked for and bound by one lane at a time.
starting = threading.Lock()


@dataclasses.dataclass(frozen=True)
class Setting:
    name: str
    words: str
    flags: tuple[str, ...]
    shards: int


SETTINGS = {
    "a": Setting("a", "one backend", (), 1),
    "b": Setting("b", "three backends, --cluster-mode", ("--cluster-mode",), 3),
    "c": Setting("c", "three backends, --singledb", ("--singledb",), 3),
}


@dataclasses.dataclass
class Result:
    """What came of a file: verdicts of its tests and what was wrong besides."""

    tests: dict[str, tuple[str, str]] = dataclasses.field(default_factory=dict)
    outside: list[str] = dataclasses.field(default_factory=list)
    # A panic or a death of the proxy: never explained away.
    faults: list[str] = dataclasses.field(default_factory=list)
    # Requests by backend, from the proxy's metrics.
    requests: collections.Counter = dataclasses.field(default_factory=collections.Counter)


class Lane:
    """Runs files one after another; `logs` holds what they printed."""

    def __init__(self, tree: pathlib.Path, logs: pathlib.Path) -> None:
        self.tree = tree
        self.logs = logs

    def file(self, unit: str, setting: Setting, plain: bool, only: list[str] | None = None) -> Result:
        """All tests of a file, or those named; `plain` is Redis itself in the proxy's place."""
        result = Result()
        skipped: list[str] = []
        for round_ in range(ROUNDS_MAX):
            report = self._once(unit, setting, plain, only, skipped, round_, result)
            fresh = [test for test in report.tests if test not in result.tests]
            for test in fresh:
                result.tests[test] = report.tests[test]
            result.outside += [line for line in report.outside if line not in result.outside]
            failed = {output.plain_name(test) for test in result.tests if result.tests[test][0] != output.PASSED}
            if report.whole() or failed <= set(skipped):
                break
            skipped = sorted(failed)
        return result

    def _once(self, unit: str, setting: Setting, plain: bool, only: list[str] | None, skipped: list[str],
              round_: int, result: Result) -> output.Report:
        kind = "plain" if plain else "ringway"
        name = f"{setting.name}-{kind}-{unit.replace('/', '_')}-{'only-' if only else ''}{round_}"
        with contextlib.ExitStack() as stack:
            servers, proxy = self._start(stack, setting, plain)
            try:
                for _ in range(STARTS_MAX):
                    text = self._suite(unit, setting, proxy.port, only, skipped, name)
                    # Its processes talk over a port, which somebody else may have taken meanwhile.
                    if "couldn't open socket: address already in use" not in text:
                        break
            finally:
                if not plain:
                    result.requests += backend_requests(proxy, result.faults, unit)
                    log = (servers.dir / "ringway.log").read_text(errors="replace")
                    (self.logs / f"{name}.log").write_text(log)
                    if "panicked" in log:
                        result.faults.append(f"{unit}: the proxy panicked: {self.logs / name}.log")
        return output.parse(text, unit)

    def _start(self, stack: contextlib.ExitStack, setting: Setting, plain: bool) -> tuple[rig.Rig, rig.Proxy]:
        for start in range(STARTS_MAX):
            with starting, contextlib.ExitStack() as attempt:
                servers = attempt.enter_context(rig.Rig(settings=ADMIN))
                try:
                    servers.start_backends(1 if plain else setting.shards)
                    proxy = servers.start("direct" if plain else "ringway")
                except rig.Broken:
                    # Somebody else may take a port between our asking for it and the server's bind.
                    if start + 1 == STARTS_MAX:
                        raise
                    continue
                stack.push(attempt.pop_all())
                return servers, proxy
        raise AssertionError("unreachable")

    def _suite(self, unit: str, setting: Setting, port: int, only: list[str] | None, skipped: list[str],
               name: str) -> str:
        argv = ["tclsh", "tests/test_helper.tcl", "--host", "127.0.0.1", "--port", str(port), "--single", unit,
                "--tags", " ".join(f"-{tag}" for tag in DENIED), "--durable", "--dont-clean", "--timeout",
                str(HANG_SECONDS), "--baseport", str(20_000 + rig.free_ports(1)[0] % 30_000), *setting.flags]
        for test in only or ():
            argv += ["--only", output.plain_name(test)]
        if skipped:
            path = self.logs / f"{name}.skip"
            path.write_text("".join(f"{test}\n" for test in skipped))
            argv += ["--skipfile", str(path)]
        path = self.logs / f"{name}.out"
        with open(path, "wb") as out:
            child = subprocess.Popen(argv, cwd=self.tree, stdin=subprocess.DEVNULL, stdout=out, stderr=out,
                                     start_new_session=True)
            try:
                child.wait(FILE_SECONDS_MAX)
            except subprocess.TimeoutExpired:
                pass
            finally:
                # The suite's helpers (load generators) are its children.
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(child.pid, signal.SIGKILL)
                child.wait()
        return path.read_text(errors="replace")


def backend_requests(proxy: rig.Proxy, faults: list[str], unit: str) -> collections.Counter:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{proxy.admin}/metrics", timeout=10) as answer:
            text = answer.read().decode()
    except OSError as err:
        faults.append(f"{unit}: the proxy does not answer any more: {err}")
        return collections.Counter()
    found = re.findall(r'^ringway_backend_requests_total\{backend="([^"]+)"\} (\d+)', text, re.MULTILINE)
    return collections.Counter({name: int(count) for name, count in found})

"""What is asked of a proxy and counted meanwhile: keys, the load generator, the servers' counters,
the kernel's. A sample counts only if exactly the requests that were sent arrived and every key read
was found."""

import collections
import contextlib
import dataclasses
import signal
import subprocess
import time
from collections.abc import Callable

import figures
import rig
from figures import Row, Sample

SECONDS_MAX = 120.0
# How long one of several loads runs before it is held for the others.
TURN_SECONDS = 0.1
# When a proxy has done what it was sent: as rig.settled_ns, seen sooner.
REST_SECONDS = 0.004


def generator(proxy: rig.Proxy, row: Row, requests: int, core: int | None) -> list[str]:
    """The command line that sends exactly `requests` requests."""
    argv = ["redis-benchmark", "-h", proxy.host, "-p", str(proxy.port), "-c", str(row.clients), "-n", str(requests),
            "-P", str(row.pipeline), "-r", str(row.keyspace), "--csv", *(["-3"] if row.resp3 else []),
            *(["--threads", str(row.threads)] if row.threads > 1 else []), *row.words()]
    return rig.pinned(argv, core)


def send(proxy: rig.Proxy, row: Row, requests: int, core: int | None) -> str:
    """Sends exactly `requests` requests; returns the load generator's CSV."""
    try:
        done = subprocess.run(generator(proxy, row, requests, core), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, text=True, timeout=SECONDS_MAX)
    except subprocess.TimeoutExpired as err:
        raise rig.Broken(f"{proxy.name}, {row.name}: not done after {SECONDS_MAX:.0f} s") from err
    if done.returncode != 0:
        raise rig.Broken(f"{proxy.name}, {row.name}: {(done.stderr or done.stdout).strip()[-300:]}")
    return done.stdout


def fill(backends: list[int], rows: list[Row]) -> None:
    """Every key on every server, so that any placement finds it."""
    for prefix, count, size in sorted({(row.prefix, row.keyspace, row.size) for row in rows}):
        step = max(1, min(1_000, 4_000_000 // size))
        value = b"x" * size
        for start in range(0, count, step):
            pairs = rig.request("MSET", *(part for i in range(start, min(start + step, count))
                                          for part in (b"%b%012d" % (prefix.encode(), i), value)))
            for port in backends:
                with rig.Client(port) as client:
                    client.socket.sendall(pairs)
                    client.reply()


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
        """What is wrong with the counts between `before` and now, when so many requests of the row's kind were
        sent; empty when all is well."""
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


class Counted:
    """Holds the servers', and ringway's own, counters to what is sent between its beginning and its end. A peer
    may stand before servers of its own: nothing is known of their counters."""

    def __init__(self, loads: list["Load"], where: rig.Rig) -> None:
        self.loads = [load for load in loads if load.proxy.process or load.proxy.name == "direct"]
        self.where = where

    def own(self, proxy: rig.Proxy) -> int:
        return rig.requests_counted(proxy, self.loads[0].row.command)

    def __enter__(self) -> "Counted":
        self.ringways = {load.proxy.port: load.proxy for load in self.loads if load.proxy.name == figures.SUBJECT}
        self.before = Counters(self.where.backends)
        self.owns = {port: self.own(proxy) for port, proxy in self.ringways.items()}
        return self

    def __exit__(self, kind: type | None, *_: object) -> None:
        if kind or not self.loads:
            return
        row = self.loads[0].row
        wrong = Counters(self.where.backends).check(self.before, row, sum(load.requests for load in self.loads))
        for port, proxy in self.ringways.items():
            sent = sum(load.requests for load in self.loads if load.proxy.port == port)
            if (own := self.own(proxy) - self.owns[port]) != sent:
                wrong.append(f"{sent} {row.command} sent, ringway_requests_total grew by {own}")
        if wrong:
            raise rig.Broken(f"{', '.join(load.name for load in self.loads)}, {row.name}: {'; '.join(wrong)}")


def sample(proxy: rig.Proxy, row: Row, requests: int, where: rig.Rig, turn: int) -> Sample:
    """One run of the load generator, on its own."""
    if proxy.pid:
        rig.forget_peak(proxy.pid)
    with Counted([Load(proxy.name, proxy, row, requests)], where):
        before = rig.cpu_ns(proxy.pid) if proxy.pid else 0
        text = send(proxy, row, requests, where.core)
        cpu = rig.settled_ns(proxy.pid) - before if proxy.pid else None
    peak = rig.memory_kib(proxy.pid, "VmHWM") if proxy.pid else None
    return Sample(where.pinning, turn, row.name, proxy.name, requests, *figures.parse_csv(text), cpu, peak)


@dataclasses.dataclass
class Load:
    """A load that runs beside others, and what it took while it was its turn; `each_second` is done as often."""

    name: str
    proxy: rig.Proxy
    row: Row
    requests: int
    each_second: Callable[[], object] | None = None
    process: subprocess.Popen | None = None
    seconds: float = 0.0
    cpu_ns: int = 0
    user: int = 0
    kernel: int = 0

    @property
    def over(self) -> bool:
        return self.process is not None and self.process.poll() is not None

    def turn(self, core: int | None) -> None:
        """Goes on for a while, and is held until its next turn; the proxy's CPU is charged to it."""
        pid, start = self.proxy.pid, time.monotonic()
        cpu, (user, kernel) = rig.cpu_ns(pid), rig.cpu_ticks(pid)
        if self.process is None:
            self.process = subprocess.Popen(generator(self.proxy, self.row, self.requests, core), text=True,
                                            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        else:
            self.process.send_signal(signal.SIGCONT)
        if self.each_second and int(self.seconds) != int(self.seconds - TURN_SECONDS):
            self.each_second()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(TURN_SECONDS)
        self.process.send_signal(signal.SIGSTOP)
        self.seconds += time.monotonic() - start
        self.cpu_ns += rig.settled_ns(pid, REST_SECONDS) - cpu
        ticks = rig.cpu_ticks(pid)
        self.user, self.kernel = self.user + ticks[0] - user, self.kernel + ticks[1] - kernel

    def end(self) -> None:
        if self.process:
            self.process.kill()
            self.process.communicate()


def beside(loads: list[Load], where: rig.Rig, turn: int) -> list[Sample]:
    """Loads of one command, all at once: each runs for a tenth of a second while the others are held, again and
    again, so that whatever the machine does falls on all alike. Only the speed while it ran is known of each."""
    with contextlib.ExitStack() as stack, Counted(loads, where):
        for load in loads:
            stack.callback(load.end)
        number, deadline = turn, time.monotonic() + SECONDS_MAX * len(loads)
        while left := [load for load in loads if not load.over]:
            for load in figures.order(left, number):
                load.turn(where.core)
            number += 1
            if time.monotonic() > deadline:
                raise rig.Broken(f"not done after {SECONDS_MAX:.0f} s: {', '.join(load.name for load in left)}")
        for load in loads:
            text, trouble = load.process.communicate()
            if load.process.returncode != 0:
                raise rig.Broken(f"{load.name}, {load.row.name}: {(trouble or text).strip()[-300:]}")
    return [Sample(where.pinning, turn, load.row.name, load.name, load.requests, load.requests / load.seconds, None,
                   None, load.cpu_ns, None, load.user, load.kernel) for load in loads]


def net_beside(loads: list[Load], where: rig.Rig, turn: int) -> list[Sample]:
    """The same without what it costs that the clients come and go: less a run in which each asks once."""
    few = [sample(load.proxy, load.row, load.row.requests(0), where, turn) for load in loads]
    many = beside([dataclasses.replace(load, requests=load.requests + one.requests)
                   for load, one in zip(loads, few, strict=True)], where, turn)
    return [dataclasses.replace(all_, requests=all_.requests - one.requests, cpu_ns=all_.cpu_ns - one.cpu_ns)
            for all_, one in zip(many, few, strict=True)]


def net_syscalls(proxy: rig.Proxy, row: Row, requests: int, where: rig.Rig) -> float:
    """System calls per request, without those for clients that come and go. strace slows the proxy, which
    makes its batches larger, alike for all."""
    few = row.requests(0)
    return (traced(proxy, row, few + requests, where) - traced(proxy, row, few, where)) / requests


def traced(proxy: rig.Proxy, row: Row, requests: int, where: rig.Rig) -> int:
    """System calls of the proxy, all threads, from the first of `requests` requests until it rests again."""
    rig.settled_ns(proxy.pid)
    out = where.dir / "strace.txt"
    out.unlink(missing_ok=True)
    tracer = subprocess.Popen(["strace", "-f", "-c", "-o", str(out), "-p", str(proxy.pid)],
                              stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        # It says "Process N attached" for each thread; the first line is enough to begin.
        if b"attached" not in (line := tracer.stderr.readline()):
            raise rig.Broken(f"strace: {line.decode().strip()}")
        send(proxy, row, requests, where.core)
        rig.settled_ns(proxy.pid)
    finally:
        tracer.send_signal(signal.SIGINT)
        tracer.stderr.read()
        tracer.wait()
    return figures.parse_syscalls(out.read_text())

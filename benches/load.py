"""What is asked of a proxy and counted meanwhile: keys, the load generator, the servers' counters,
the kernel's. A sample counts only if exactly the requests that were sent arrived and every key read
was found."""

import collections
import dataclasses
import signal
import subprocess

import figures
import rig
from figures import Row, Sample

SECONDS_MAX = 120.0


def send(proxy: rig.Proxy, row: Row, requests: int, core: int | None) -> str:
    """Sends exactly `requests` requests; returns the load generator's CSV."""
    argv = ["redis-benchmark", "-h", proxy.host, "-p", str(proxy.port), "-c", str(row.clients), "-n", str(requests),
            "-P", str(row.pipeline), "-r", str(row.keyspace), "--csv", *(["-3"] if row.resp3 else []),
            *(["--threads", str(row.threads)] if row.threads > 1 else []), *row.words()]
    try:
        done = subprocess.run(rig.pinned(argv, core), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
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


def sample(proxy: rig.Proxy, row: Row, requests: int, where: rig.Rig, turn: int) -> Sample:
    """One run of the load generator, counted by the kernel, the servers and ringway itself."""
    pinning = "unpinned" if where.core is None else "pinned"
    before = Counters(where.backends)
    counted = rig.requests_counted(proxy, row.command) if proxy.name == "ringway" else 0
    if proxy.pid:
        rig.forget_peak(proxy.pid)
    cpu, (user, kernel) = (rig.cpu_ns(proxy.pid), rig.cpu_ticks(proxy.pid)) if proxy.pid else (None, (0, 0))
    text = send(proxy, row, requests, where.core)
    if proxy.pid:
        cpu = rig.cpu_ns(proxy.pid) - cpu
        user, kernel = (now - then for now, then in zip(rig.cpu_ticks(proxy.pid), (user, kernel)))
    peak = rig.memory_kib(proxy.pid, "VmHWM") if proxy.pid else None
    # A peer may stand before servers of its own: nothing is known of their counters.
    if proxy.process or proxy.name == "direct":
        wrong = Counters(where.backends).check(before, row, requests)
        if proxy.name == "ringway" and (own := rig.requests_counted(proxy, row.command) - counted) != requests:
            wrong.append(f"{requests} {row.command} sent, ringway_requests_total grew by {own}")
        if wrong:
            raise rig.Broken(f"{proxy.name}, {row.name}, {pinning}: {'; '.join(wrong)}")
    return Sample(pinning, turn, row.name, proxy.name, requests, *figures.parse_csv(text), cpu, peak, user, kernel)


def net_sample(proxy: rig.Proxy, row: Row, requests: int, where: rig.Rig, turn: int) -> Sample:
    """A sample without what it costs that the clients come and go: less one in which each asks once."""
    start = rig.settled_ns(proxy.pid)
    few = sample(proxy, row, row.requests(0), where, turn)
    middle = rig.settled_ns(proxy.pid)
    many = sample(proxy, row, few.requests + requests, where, turn)
    cpu = rig.settled_ns(proxy.pid) - middle - (middle - start)
    return dataclasses.replace(many, requests=requests, cpu_ns=cpu)


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

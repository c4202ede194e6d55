#!/usr/bin/env python3
"""Latency under a load that keeps its pace: so many GETs a second, evenly, over some connections,
whether or not the earlier ones were answered.

As a script it is that load: it prints one line of JSON, latencies from send to reply and how late the
sends were, in microseconds. It is one thread, which never sleeps: on a core of its own no wake-up of
the client's is in the figures. What Python adds is the same for whoever is asked.
"""

import argparse
import collections
import gc
import json
import os
import pathlib
import select
import statistics
import subprocess
import time

import figures
import load
import rig
from figures import Section

RATE, CONNECTIONS = 5_000, 20
PROXIES = ("direct", "haproxy", "nutcracker", "ringway")
PATIENCE_SECONDS = 5.0
# Of nutcracker's addition to the median.
ADDED_MOST = 0.9


class Connection:
    """One socket, and when each request that is not answered yet was sent on it."""

    def __init__(self, port: int) -> None:
        self.client = rig.Client(port)
        self.socket = self.client.socket
        self.socket.setblocking(False)
        self.sent: collections.deque[int] = collections.deque()
        self.rest = b""

    def send(self, key: bytes, now: int) -> None:
        self.sent.append(now)
        self.socket.send(rig.request(b"GET", key))

    def answered(self, reply: bytes) -> list[int]:
        """Reads what is there: when the requests were sent that it answers, each with exactly `reply`."""
        count, self.rest = replies(self.rest + self.socket.recv(65_536), reply)
        return [self.sent.popleft() for _ in range(count)]


def replies(data: bytes, reply: bytes) -> tuple[int, bytes]:
    """How often `reply` came, and what is there of the next one."""
    count, left = divmod(len(data), len(reply))
    if not data or data != reply * count + reply[:left]:
        raise rig.Broken(f"an unexpected reply: {data[:60]!r}")
    return count, reply[:left]


def paced(port: int, rate: int, connections: int, seconds: float) -> dict[str, float]:
    """Sends for so many seconds; the first fifth, in which all is cold, does not count."""
    links = [Connection(port) for _ in range(connections)]
    by_fd = {link.socket.fileno(): link for link in links}
    poller = select.epoll()
    for fd in by_fd:
        poller.register(fd, select.EPOLLIN)
    reply = b"$%d\r\n%b\r\n" % (figures.SMALL, b"x" * figures.SMALL)
    total, step = round(rate * seconds), 1_000_000_000 // rate
    taken: list[int] = []
    late: list[int] = []
    gc.disable()
    start = time.perf_counter_ns()
    while len(taken) < total:
        now, sent = time.perf_counter_ns(), len(late)
        due = start + sent * step
        if sent < total and now >= due:
            # A stride without a pattern: neighbours in time are not neighbours on a shard.
            links[sent % connections].send(b"key:%012d" % (sent * 7_919 % figures.SMALL_KEYS), now)
            late.append(now - due)
        elif now > start + total * step + PATIENCE_SECONDS * 1e9:
            raise rig.Broken(f"{total - len(taken)} of {total} requests were not answered")
        for fd, _ in poller.poll(0):
            answered = by_fd[fd].answered(reply)
            now = time.perf_counter_ns()
            taken += [now - then for then in answered]
    warm = taken[total // 5:]
    return {"requests": total, "p50": figures.rank(warm, 0.5) / 1e3, "p99": figures.rank(warm, 0.99) / 1e3,
            "late": figures.rank(late, 0.99) / 1e3}


def asked(proxy: rig.Proxy, seconds: float, core: int) -> dict[str, float]:
    """What a client on `core` found, and the CPU that the proxy took for it."""
    before = rig.cpu_ns(proxy.pid) if proxy.pid else None
    done = subprocess.run(rig.pinned(["python3", __file__, str(proxy.port), "--seconds", str(seconds)], core),
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if done.returncode != 0:
        raise rig.Broken(f"{proxy.name}: {done.stderr.strip()[-300:]}")
    found = json.loads(done.stdout)
    if proxy.pid:
        found["cpu"] = (rig.cpu_ns(proxy.pid) - before) / 1e3 / found["requests"]
    return found


def section(rounds: int, seconds: float, raw: pathlib.Path) -> Section:
    """Round after round past all PROXIES, short ones: a neighbour's noise falls on all alike."""
    own, core = min(os.sched_getaffinity(0)), rig.last_core()
    if own == core:
        raise rig.Broken("a paced load needs two cores: one is the client's own")
    found: dict[str, list[dict[str, float]]] = {kind: [] for kind in PROXIES}
    with rig.Rig(core) as where:
        where.start_backends()
        load.fill(where.backends, list(figures.ROWS[:1]))
        proxies = [where.start(kind) for kind in PROXIES]
        for turn in range(rounds):
            for proxy in figures.order(proxies, turn):
                one = asked(proxy, seconds, own)
                found[proxy.name].append(one)
                rig.keep(raw, {"part": "paced", "round": turn, "proxy": proxy.name, **one})
    rig.say(f"paced: {rounds} rounds")
    return render(found)


def render(found: dict[str, list[dict[str, float]]]) -> Section:
    def column(kind: str, name: str) -> list[float]:
        return [one[name] for one in found[kind] if name in one]
    added = {kind: [ours - direct for ours, direct in zip(column(kind, "p50"), column("direct", "p50"), strict=True)]
             for kind in PROXIES[1:]}
    lines = []
    for kind in PROXIES:
        cells = [column(kind, "p50"), added.get(kind), column(kind, "p99"), column(kind, "cpu"), column(kind, "late")]
        lines.append([kind, *(str(figures.spread(cell)) if cell else "-" for cell in cells)])
    middle = {kind: statistics.median(values) for kind, values in added.items()}
    bars = []
    if middle["nutcracker"] > 0:
        bars.append(figures.verdict(f"{RATE:,} requests/s: p50 added over direct at most {{}} of nutcracker's",
                                    {"GET": middle["ringway"] / middle["nutcracker"]}, ADDED_MOST))
    text = (f"{len(found['direct'])} rounds. GET over {CONNECTIONS} connections, evenly paced, sent whether or not the "
            "earlier ones were answered. The client spins on a core of its own, servers and proxies share another. "
            "Microseconds from send to reply; `added` is what the same round's `direct` had less; `late` is the p99 of "
            "the client's own lateness: where it is not small, something else had its core.\n\n")
    head = ["", "p50", "added", "p99", "CPU s per million requests", "late"]
    return Section(f"Latency at {RATE:,} requests a second", bars, text + figures.table(head, lines))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("port", type=int)
    parser.add_argument("--rate", type=int, default=RATE, help="requests a second")
    parser.add_argument("--connections", type=int, default=CONNECTIONS)
    parser.add_argument("--seconds", type=float, default=1.2)
    options = parser.parse_args()
    try:
        print(json.dumps(paced(options.port, options.rate, options.connections, options.seconds)))
    except (rig.Broken, OSError) as err:
        rig.say(f"paced: {err}")
        return 1
    return 0


if __name__ == "__main__":
    rig.run(main)

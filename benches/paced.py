#!/usr/bin/env python3
"""Latency under a load that keeps its pace: so many GETs a second, evenly, over some connections,
whether or not the earlier ones were answered.

As a script it is that load, at several ports in turn: it prints one line of JSON, by turn and port
latencies from send to reply and how late the sends were, in microseconds. It is one thread, which never
sleeps: on a core of its own no wake-up of the client's is in the figures. What Python adds is the same for
whoever is asked.
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


def turn(links: list[Connection], poller: select.epoll, first: int, options: argparse.Namespace) -> dict[str, float]:
    """Sends for so long, from the key numbered `first` on; microseconds. The first fifth, in which the caches are
    somebody else's, does not count."""
    by_fd = {link.socket.fileno(): link for link in links}
    reply = b"$%d\r\n%b\r\n" % (figures.SMALL, b"x" * figures.SMALL)
    total, step = round(options.rate * options.seconds), 1_000_000_000 // options.rate
    taken: list[int] = []
    late: list[int] = []
    start = time.perf_counter_ns()
    while len(taken) < total:
        now, sent = time.perf_counter_ns(), len(late)
        due = start + sent * step
        if sent < total and now >= due:
            # A stride without a pattern: neighbours in time are not neighbours on a shard.
            links[sent % len(links)].send(b"key:%012d" % ((first + sent) * 7_919 % figures.SMALL_KEYS), now)
            late.append(now - due)
        elif now > start + total * step + PATIENCE_SECONDS * 1e9:
            raise rig.Broken(f"{total - len(taken)} of {total} requests were not answered")
        for fd, _ in poller.poll(0):
            answered = by_fd[fd].answered(reply)
            now = time.perf_counter_ns()
            taken += [now - then for then in answered]
    warm = taken[total // 5:]
    return {"p50": figures.rank(warm, 0.5) / 1e3, "p99": figures.rank(warm, 0.99) / 1e3,
            "late": figures.rank(late[total // 5:], 0.99) / 1e3}


def paced(options: argparse.Namespace) -> list[list[dict[str, float]]]:
    """Turn after turn at all ports: what was found at each."""
    targets = []
    for port in options.port:
        links, poller = [Connection(port) for _ in range(options.connections)], select.epoll()
        for link in links:
            poller.register(link.socket.fileno(), select.EPOLLIN)
        targets.append((links, poller))
    gc.disable()
    found = []
    for number in range(options.turns):
        places = figures.order(list(range(len(targets))), number)
        taken = {place: turn(*targets[place], number * 1_000, options) for place in places}
        found.append([taken[place] for place in range(len(targets))])
    return found


def asked(proxies: list[rig.Proxy], turns: int, seconds: float, core: int) -> dict[str, dict[str, float]]:
    """What a client on `core` found at each proxy, medians of its turns: what is added is the difference to the
    first one's of the same turn. And the CPU that each took for a request."""
    before = [rig.cpu_ns(proxy.pid) if proxy.pid else None for proxy in proxies]
    done = subprocess.run(rig.pinned(["python3", __file__, *(str(proxy.port) for proxy in proxies), "--seconds",
                                      str(seconds), "--turns", str(turns)], core),
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if done.returncode != 0:
        raise rig.Broken(f"paced load: {done.stderr.strip()[-300:]}")
    found = {}
    for place, (proxy, then) in enumerate(zip(proxies, before, strict=True)):
        ours = [one[place] | {"added": one[place]["p50"] - one[0]["p50"]} for one in json.loads(done.stdout)]
        found[proxy.name] = {name: statistics.median(one[name] for one in ours) for name in ours[0]}
        if then is not None:
            found[proxy.name]["cpu"] = (rig.cpu_ns(proxy.pid) - then) / 1e3 / (round(RATE * seconds) * turns)
    return found


def section(rounds: int, turns: int, seconds: float, raw: pathlib.Path) -> Section:
    """Rounds of many short turns at all PROXIES: a neighbour's noise falls on all alike."""
    own, core = min(os.sched_getaffinity(0)), rig.last_core()
    if own == core:
        raise rig.Broken("a paced load needs two cores: one is the client's own")
    found: dict[str, list[dict[str, float]]] = {kind: [] for kind in PROXIES}
    with rig.Rig(core) as where:
        where.start_backends()
        load.fill(where.backends, list(figures.ROWS[:1]))
        proxies = [where.start(kind) for kind in PROXIES]
        for turn in range(rounds):
            for name, one in asked(proxies, turns, seconds, own).items():
                found[name].append(one)
                rig.keep(raw, {"part": "paced", "round": turn, "proxy": name, **one})
    rig.say(f"paced: {rounds} rounds")
    return render(found, turns, seconds)


def render(found: dict[str, list[dict[str, float]]], turns: int, seconds: float) -> Section:
    def column(kind: str, name: str) -> list[float]:
        return [one[name] for one in found[kind] if name in one]
    columns = {"p50": "p50", "added": "added", "p99": "p99", "cpu": "CPU s per million requests", "late": "late"}
    lines = [[kind, *(str(figures.spread(cell)) if (cell := column(kind, name)) else "-" for name in columns)]
             for kind in PROXIES]
    middle = {kind: statistics.median(column(kind, "added")) for kind in PROXIES}
    bars = []
    if middle["nutcracker"] > 0:
        bars.append(figures.verdict(f"{RATE:,} requests/s: p50 added over direct at most {{}} of nutcracker's",
                                    {"GET": middle["ringway"] / middle["nutcracker"]}, ADDED_MOST))
    text = (f"{len(found['direct'])} rounds of {turns} turns of {seconds:g} s at each. GET over {CONNECTIONS} "
            "connections, evenly paced, sent whether or not the earlier ones were answered. The client spins on a core "
            "of its own, servers and proxies share another. Microseconds from send to reply, of a round the median of "
            "its turns; `added` is what `direct` had less in the same turn; `late` is the p99 of the client's own "
            "lateness: where it is not small, something else had its core.\n\n")
    return Section(f"Latency at {RATE:,} requests a second", bars, text + figures.table(["", *columns.values()], lines))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("port", type=int, nargs="+")
    parser.add_argument("--rate", type=int, default=RATE, help="requests a second")
    parser.add_argument("--connections", type=int, default=CONNECTIONS)
    parser.add_argument("--seconds", type=float, default=0.1, help="of one turn at one port")
    parser.add_argument("--turns", type=int, default=10, help="turns at each port")
    options = parser.parse_args()
    try:
        print(json.dumps(paced(options)))
    except (rig.Broken, OSError) as err:
        rig.say(f"paced: {err}")
        return 1
    return 0


if __name__ == "__main__":
    rig.run(main)

#!/usr/bin/env python3
"""What a proxy remembers, in bytes: benches/MEMORY.md.

Three questions: what an idle client costs (thousands that each said a little and then stay), what is
kept after a burst of 512 pipelining clients has gone, and what one 512 MB value in and out takes, and
takes from the clients beside it. Resident memory as the kernel counts it.
"""

import argparse
import contextlib
import multiprocessing
import multiprocessing.connection
import pathlib
import statistics
import subprocess
import time

import figures
import rig
from figures import SUBJECT, Section

IDLE_CLIENTS = 10_000
IDLE_SECONDS = 10.0
BURST_CLIENTS, BURST_PIPELINE, BURST_BYTES = 512, 16, 1_000
HUGE_BYTES = 512 * 1024 * 1024
HUGE_SECONDS_MAX = 120.0
HUGE_ROUNDS = 5
QUIET_SECONDS = 3.0
PROBE_KEYS = 1_000
# A client that never rests would be load itself, and the time before it not quiet.
PROBE_PAUSE_SECONDS = 0.001
# What ringway promises: bytes of an idle client, memory after a burst in relation to before, MiB over a huge
# value's size, and a neighbour's p99 meanwhile in relation to quiet.
IDLE_MOST, BURST_MOST, HUGE_MOST = 1_536, 1.5, 64
BESIDE_MOST = {"on other shards": 5, "on the same shard": 20}


def idle(kind: str, clients: int) -> dict[str, float]:
    """Bytes for each of many clients that have spoken and are silent now."""
    with rig.Rig() as where:
        where.start_backends()
        proxy = where.start(kind)
        # nutcracker closes a connection that says HELLO or CLIENT.
        talks = kind == "ringway"
        before = rig.memory_kib(proxy.pid)
        kept = []
        try:
            for i in range(clients):
                client = rig.Client(proxy.port)
                kept.append(client)
                if talks:
                    client.call("HELLO", 3)
                    client.call("CLIENT", "SETNAME", f"idle-{i}")
                client.call("SET", f"idle:{i}", "value")
                if client.call("GET", f"idle:{i}") != b"value":
                    raise rig.Broken(f"{kind}: client {i} did not get what it set")
            spoken = rig.memory_kib(proxy.pid)
            time.sleep(IDLE_SECONDS)
            after = rig.memory_kib(proxy.pid)
        finally:
            for client in kept:
                client.__exit__()
    return {"bytes per client": (after - before) * 1024 / clients,
            "just after": (spoken - before) * 1024 / clients, "MiB in all": after / 1024}


def burst(kind: str) -> dict[str, float]:
    """MiB before, at the peak of, and ten idle seconds after 512 clients that pipelined."""
    with rig.Rig() as where:
        where.start_backends()
        proxy = where.start(kind)
        before = rig.memory_kib(proxy.pid)
        for words in (["set", "burst:__rand_int__", "x" * BURST_BYTES], ["get", "burst:__rand_int__"]):
            subprocess.run(
                ["redis-benchmark", "-p", str(proxy.port), "-c", str(BURST_CLIENTS), "-P", str(BURST_PIPELINE),
                 "-n", str(BURST_CLIENTS * BURST_PIPELINE * 40), "-r", "10000", "--csv", *words],
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True,
                timeout=120)
        peak = rig.memory_kib(proxy.pid, "VmHWM")
        time.sleep(IDLE_SECONDS)
        after = rig.memory_kib(proxy.pid)
    return {"before": before / 1024, "peak": peak / 1024, "after": after / 1024}


def probe(port: int, keys: list[str], orders: multiprocessing.connection.Connection) -> None:
    """A client beside the others: a GET of one of its keys every millisecond; at each word from `orders`, tells
    the latencies since the last one, in ms."""
    with rig.Client(port, timeout=HUGE_SECONDS_MAX) as client:
        taken: list[float] = []
        i = 0
        while True:
            i += 1
            start = time.perf_counter()
            client.call("GET", keys[i % len(keys)])
            taken.append((time.perf_counter() - start) * 1000)
            time.sleep(PROBE_PAUSE_SECONDS)
            if orders.poll():
                word = orders.recv()
                orders.send(taken)
                taken = []
                if word == "end":
                    return


class Neighbour:
    """The process of a probe."""

    def __init__(self, port: int, keys: list[str]) -> None:
        self.ours, theirs = multiprocessing.Pipe()
        self.process = multiprocessing.Process(target=probe, args=(port, keys, theirs), daemon=True)
        self.process.start()

    def __enter__(self) -> "Neighbour":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.join()

    def told(self, word: str) -> list[float]:
        self.ours.send(word)
        if not self.ours.poll(HUGE_SECONDS_MAX):
            raise rig.Broken("the client beside it hangs")
        return self.ours.recv()


def beside_it(proxy: rig.Proxy, backends: list[int]) -> dict[str, tuple[int, list[str]]]:
    """The port and the keys of each neighbour. Of proxies only ringway tells where a key lives. A server that
    has nothing to do with the value shows what the machine itself, busy with it, leaves to others."""
    keys = [f"probe:{i}" for i in range(PROBE_KEYS)]
    if proxy.name == "direct":
        return {"": (proxy.port, keys), "on another server": (backends[1], keys)}
    if proxy.name != SUBJECT:
        return {"": (proxy.port, keys)}
    with rig.Client(proxy.port) as client:
        home, *shards = [located[located.index(b"shard") + 1]
                         for located in client.call("RINGWAY", "LOCATE", "huge", *keys)]
    where = {True: "on the same shard", False: "on other shards"}
    return {name: (proxy.port, [key for key, shard in zip(keys, shards, strict=True) if (shard == home) == same])
            for same, name in where.items()}


def huge(kind: str, size: int) -> tuple[dict[str, float | str], dict[str, dict[str, float]]]:
    """A huge value in and out, some times: peak memory and seconds; for each neighbour, of all that it asked
    meanwhile, p99 and worst."""
    found: dict[str, float | str] = {}
    seconds: dict[str, list[float]] = {"in": [], "out": []}
    beside: dict[str, dict[str, list[float]]] = {}
    with rig.Rig() as where, contextlib.ExitStack() as stack:
        where.start_backends()
        proxy = where.start(kind)
        neighbours = {name: stack.enter_context(Neighbour(port, keys))
                      for name, (port, keys) in beside_it(proxy, where.backends).items()}

        def told(word: str) -> None:
            for name, neighbour in neighbours.items():
                taken = neighbour.told(word)
                if word not in ("begin", "end"):
                    beside.setdefault(name, {}).setdefault(word, []).extend(taken)
        try:
            for _ in range(HUGE_ROUNDS):
                told("begin")
                time.sleep(QUIET_SECONDS)
                told("quiet")
                with rig.Client(proxy.port, timeout=HUGE_SECONDS_MAX) as client:
                    for word, work in (("in", put), ("out", take)):
                        start = time.monotonic()
                        work(client, size)
                        seconds[word].append(time.monotonic() - start)
                        told(word)
                    client.call("DEL", "huge")
            told("end")
            found |= {f"{word}: s": statistics.median(times) for word, times in seconds.items()}
            if proxy.pid:
                found["peak MiB"] = rig.memory_kib(proxy.pid, "VmHWM") / 1024
                time.sleep(IDLE_SECONDS)
                found["after MiB"] = rig.memory_kib(proxy.pid) / 1024
        except (rig.Broken, OSError) as err:
            if kind == SUBJECT:
                raise
            found["fails"] = str(err) or type(err).__name__
    return found, {name: {column: value for word, taken in by_word.items()
                          for column, value in ((f"{word}: p99 ms", figures.rank(taken, 0.99)),
                                                (f"{word}: worst ms", max(taken)))}
                   for name, by_word in beside.items()}


def put(client: rig.Client, size: int) -> None:
    piece = b"x" * (1 << 20)
    client.socket.sendall(b"*3\r\n$3\r\nSET\r\n$4\r\nhuge\r\n$%d\r\n" % size)
    for start in range(0, size, len(piece)):
        client.socket.sendall(piece[: size - start])
    client.socket.sendall(b"\r\n")
    client.reply()


def take(client: rig.Client, size: int) -> None:
    client.socket.sendall(rig.request("GET", "huge"))
    head = client.file.readline()
    if head != b"$%d\r\n" % size:
        raise rig.Broken(f"the value came back as {head[:40]!r}")
    left = size + 2
    while left:
        piece = client.file.read1(min(left, 1 << 20))
        if not piece:
            raise rig.Broken("the connection was closed in the value")
        left -= len(piece)


def table(found: dict[str, dict[str, float | str]]) -> str:
    columns = list(dict.fromkeys(name for figures_of_one in found.values() for name in figures_of_one))
    lines = [
        [kind, *(str(value) if isinstance(value := one.get(name, "-"), str) else figures.number(value)
                 for name in columns)]
        for kind, one in found.items()
    ]
    return figures.table(["", *columns], lines)


def idle_section(kinds: list[str], clients: int) -> Section:
    found = {kind: idle(kind, clients) for kind in kinds}
    bars = [figures.verdict("idle clients: bytes for each at most {}", {"RSS": one["bytes per client"]}, IDLE_MOST)
            for kind, one in found.items() if kind == SUBJECT]
    return Section(f"{clients:,} idle clients", bars, table(found))


def burst_section(kinds: list[str]) -> Section:
    found = {kind: burst(kind) for kind in kinds}
    bars = [figures.verdict("after a burst: memory at most {} of before", {"RSS": one["after"] / one["before"]},
                            BURST_MOST)
            for kind, one in found.items() if kind == SUBJECT]
    return Section(f"{BURST_CLIENTS} clients, -P {BURST_PIPELINE}, {BURST_BYTES} bytes; MiB", bars, table(found))


def huge_section(kinds: list[str], size: int) -> Section:
    found = {kind: huge(kind, size) for kind in ["direct", *kinds]}
    bars = []
    if SUBJECT in found:
        whole, beside = found[SUBJECT]
        over = whole["peak MiB"] - size / 1048576
        bars.append(figures.verdict("a huge value: peak memory over its size at most {} MiB", {"RSS": over}, HUGE_MOST))
        for name, most in BESIDE_MOST.items():
            ratios = {word: beside[name][f"{word}: p99 ms"] / beside[name]["quiet: p99 ms"] for word in ("in", "out")}
            bars.append(figures.verdict(f"a huge value: p99 of a client {name} at most {{}} of quiet", ratios, most))
    beside = {f"{kind}, {name}" if name else kind: one
              for kind, (_, neighbours) in found.items() for name, one in neighbours.items()}
    text = (table({kind: whole for kind, (whole, _) in found.items()})
            + f"\nA client beside it, which asks for a small key every millisecond, in {HUGE_ROUNDS} rounds:\n\n{table(beside)}")
    return Section(f"One value of {size / 1048576:.0f} MiB", bars, text)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--proxies", default="nutcracker,ringway", help="comma-separated (default nutcracker,ringway)")
    parser.add_argument("--only", choices=("idle", "burst", "huge"), action="append", help="default: all three")
    parser.add_argument("--clients", type=int, default=IDLE_CLIENTS, help="idle clients")
    parser.add_argument("--bytes", type=int, default=HUGE_BYTES, help="size of the huge value")
    parser.add_argument("--out", type=pathlib.Path, default=rig.ROOT / "benches/MEMORY.md")
    options = parser.parse_args()
    kinds = options.proxies.split(",")
    takers = {
        "idle": lambda: idle_section(kinds, options.clients),
        "burst": lambda: burst_section(kinds),
        "huge": lambda: huge_section(kinds, options.bytes),
    }
    start = time.monotonic()
    try:
        rig.raise_fd_limit(options.clients + 1_000)
        sections = [take() for name, take in takers.items() if name in (options.only or takers)]
    except rig.Broken as err:
        rig.say(f"memory: {err}")
        return 1
    text = figures.page(rig.heading("What a proxy remembers", "bench-memory", time.monotonic() - start), sections)
    rig.write(options.out, text)
    print(text)
    return 0


if __name__ == "__main__":
    rig.run(main)

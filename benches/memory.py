#!/usr/bin/env python3
"""What a proxy remembers, in bytes: benches/MEMORY.md.

Three questions: what an idle client costs (thousands that each said a little and then stay), what is
kept after a burst of 512 pipelining clients has gone, and what one 512 MB value in and out takes, and
takes from the clients beside it. Resident memory as the kernel counts it.
"""

import argparse
import math
import multiprocessing
import multiprocessing.connection
import pathlib
import signal
import subprocess
import sys
import time

import figures
import rig

IDLE_CLIENTS = 10_000
IDLE_SECONDS = 10.0
BURST_CLIENTS, BURST_PIPELINE, BURST_BYTES = 512, 16, 1_000
HUGE_BYTES = 512 * 1024 * 1024
HUGE_SECONDS_MAX = 120.0
QUIET_SECONDS = 3.0
PROBE_KEYS = 1_000


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


def probe(port: int, orders: multiprocessing.connection.Connection) -> None:
    """A client beside the others: small GETs one after another; at each word from `orders`, tells the
    latencies since the last one, in ms."""
    with rig.Client(port, timeout=HUGE_SECONDS_MAX) as client:
        taken: list[float] = []
        i = 0
        while True:
            i += 1
            start = time.perf_counter()
            client.call("GET", f"probe:{i % PROBE_KEYS}")
            taken.append((time.perf_counter() - start) * 1000)
            if orders.poll():
                word = orders.recv()
                orders.send(taken)
                taken = []
                if word == "end":
                    return


def p99(values: list[float]) -> float:
    """Nearest rank: no more than the worst, however few there are."""
    return sorted(values)[max(0, math.ceil(len(values) * 0.99) - 1)]


def huge(kind: str, size: int) -> dict[str, float | str]:
    """One huge value in and out: peak memory, seconds, and a neighbour's p99 and worst meanwhile."""
    with rig.Rig() as where:
        where.start_backends()
        proxy = where.start(kind)
        ours, theirs = multiprocessing.Pipe()
        neighbour = multiprocessing.Process(target=probe, args=(proxy.port, theirs), daemon=True)
        neighbour.start()
        try:
            def told(word: str) -> list[float]:
                ours.send(word)
                if not ours.poll(HUGE_SECONDS_MAX):
                    raise rig.Broken(f"{kind}: the client beside it hangs")
                return ours.recv()
            told("begin")
            time.sleep(QUIET_SECONDS)
            quiet = told("quiet")
            found: dict[str, float | str] = {"quiet p99 ms": p99(quiet)}
            with rig.Client(proxy.port, timeout=HUGE_SECONDS_MAX) as client:
                for name, work in (("in", lambda: put(client, size)), ("out", lambda: take(client, size))):
                    start = time.monotonic()
                    work()
                    found[f"{name}: s"] = time.monotonic() - start
                    beside = told(name)
                    found[f"{name}: p99 ms"], found[f"{name}: worst ms"] = p99(beside), max(beside)
            told("end")
            if proxy.pid:
                found["peak MiB"] = rig.memory_kib(proxy.pid, "VmHWM") / 1024
                time.sleep(IDLE_SECONDS)
                found["after MiB"] = rig.memory_kib(proxy.pid) / 1024
        except (rig.Broken, OSError) as err:
            if kind == "ringway":
                raise
            found["fails"] = str(err) or type(err).__name__
        finally:
            neighbour.kill()
            neighbour.join()
    return found


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


def render(title: str, found: dict[str, dict[str, float | str]]) -> str:
    columns = list(dict.fromkeys(name for figures_of_one in found.values() for name in figures_of_one))
    lines = [
        [kind, *(str(value) if isinstance(value := one.get(name, "-"), str) else figures.number(value)
                 for name in columns)]
        for kind, one in found.items()
    ]
    return f"## {title}\n\n{figures.table(['', *columns], lines)}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--proxies", default="nutcracker,ringway", help="comma-separated (default nutcracker,ringway)")
    parser.add_argument("--only", choices=("idle", "burst", "huge"), action="append", help="default: all three")
    parser.add_argument("--clients", type=int, default=IDLE_CLIENTS, help="idle clients")
    parser.add_argument("--bytes", type=int, default=HUGE_BYTES, help="size of the huge value")
    parser.add_argument("--out", type=pathlib.Path, default=rig.ROOT / "benches/MEMORY.md")
    options = parser.parse_args()
    kinds = options.proxies.split(",")
    only = options.only or ["idle", "burst", "huge"]
    parts = ["# What a proxy remembers\n",
             f"One run of `make bench-memory`, {time.strftime('%Y-%m-%d')}. Machine: {rig.machine()}.\n"]
    try:
        rig.raise_fd_limit(options.clients + 1_000)
        if "idle" in only:
            parts.append(render(f"{options.clients:,} idle clients",
                                {kind: idle(kind, options.clients) for kind in kinds}))
        if "burst" in only:
            parts.append(render(f"{BURST_CLIENTS} clients, -P {BURST_PIPELINE}, {BURST_BYTES} bytes; MiB",
                                {kind: burst(kind) for kind in kinds}))
        if "huge" in only:
            parts.append(render(f"One value of {options.bytes / 1048576:.0f} MiB, and a client beside it",
                                {kind: huge(kind, options.bytes) for kind in ["direct", *kinds]}))
    except rig.Broken as err:
        print(f"memory: {err}", file=sys.stderr)
        return 1
    text = "\n".join(parts)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(text)
    print(text)
    return 0


if __name__ == "__main__":
    # So that a polite end takes the servers along.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    sys.exit(main())

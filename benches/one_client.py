"""One client of redis-py, one request at a time, large values: what a simple program waits for, beside
plain Redis, nutcracker and a Redis Cluster with its own client."""

import itertools
import json
import os
import pathlib
import statistics
import subprocess

import figures
import rig
from figures import Section

TARGETS = ("direct", "nutcracker", "cluster", "ringway")
READS = (100, 1)
# Their numbers stand in front: names that differ in their last byte only are all on one server of
# nutcracker's, whose hash of them differs too little.
KEYS = [f"{i}:one" for i in range(10)]
BENCHES = rig.ROOT / "benches"
# Ringway's time, of nutcracker's in every case and of the cluster's where a cold client reads once.
NUTCRACKER_MOST, CLUSTER_MOST = 1.05, 0.4


def python() -> str:
    """The interpreter of the tests' environment, which has redis-py; made if it is missing."""
    home = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", rig.ROOT / "target")) / "clients"
    if not (home / "python.done").exists():
        setup = ["sh", str(rig.ROOT / "tests/clients/setup.sh"), str(home)]
        subprocess.run(setup, check=True, stdin=subprocess.DEVNULL)
    return str(home / "python/bin/python")


class Worker:
    """The process of redis_py.py."""

    def __init__(self, where: rig.Rig) -> None:
        argv = rig.pinned([python(), str(BENCHES / "redis_py.py")], where.core)
        self.process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.stdin.close()
        rig.end(self.process)

    def seconds(self, **order: str | int | bool) -> float:
        self.process.stdin.write(json.dumps(order | {"keys": KEYS}) + "\n")
        self.process.stdin.flush()
        if not (line := self.process.stdout.readline()):
            raise rig.Broken(f"redis-py ended before it did {order}")
        return float(line)


def case(warm: bool, reads: int) -> str:
    return f"{'warm' if warm else 'cold'}, {reads} read{'s' if reads > 1 else ''} of each"


def spread_out(where: rig.Rig, port: int) -> list[int]:
    """How many of KEYS each server gets from the proxy at `port`; all have some, or one proxy's caches are
    spared what the other's are not."""
    with rig.Client(port) as client:
        for key in KEYS:
            client.call("SET", key, "")
    counts = []
    for backend in where.backends:
        with rig.Client(backend) as server:
            counts.append(server.call("DBSIZE"))
            server.call("FLUSHALL")
    if sum(counts) != len(KEYS) or not all(counts):
        raise rig.Broken(f"the servers got {counts} of {len(KEYS)} keys")
    return counts


def section(repetitions: int, raw: pathlib.Path) -> Section:
    """All cases at all targets, again and again, in turn."""
    cases = list(itertools.product((False, True), READS))
    found: dict[str, dict[str, list[float]]] = {case(*one): {name: [] for name in TARGETS} for one in cases}
    with rig.Rig(rig.last_core()) as where:
        where.start_backends()
        ports = {kind: where.start(kind).port for kind in TARGETS if kind != "cluster"}
        places = {kind: spread_out(where, ports[kind]) for kind in ("nutcracker", "ringway")}
        ports["cluster"] = where.start_cluster()
        with Worker(where) as worker:
            for turn, (warm, reads) in itertools.product(range(-1, repetitions), cases):
                for target in figures.order(list(TARGETS), turn):
                    seconds = worker.seconds(target=target, port=ports[target], cluster=target == "cluster",
                                             warm=warm, reads=reads)
                    # The first time of all is for the servers to take their memory.
                    if turn >= 0:
                        found[case(warm, reads)][target].append(seconds * 1000)
                        rig.keep(raw, {"part": "one client", "round": turn, "case": case(warm, reads),
                                       "target": target, "seconds": seconds})
    rig.say(f"one client: {repetitions} repetitions")
    return render(found, places)


def render(found: dict[str, dict[str, list[float]]], places: dict[str, list[int]]) -> Section:
    def ratios(name: str, other: str) -> list[float]:
        return [ours / theirs for ours, theirs in zip(found[name]["ringway"], found[name][other], strict=True)]
    middle = {other: {name: statistics.median(ratios(name, other)) for name in found}
              for other in ("nutcracker", "cluster")}
    once = case(False, 1)
    bars = [
        figures.verdict("one client, 20 kB: time at most {} of nutcracker's", middle["nutcracker"], NUTCRACKER_MOST),
        figures.verdict("one client, 20 kB: time at most {} of a cluster's", {once: middle["cluster"][once]},
                        CLUSTER_MOST),
    ]
    lines = [[name, *(str(figures.spread(found[name][target])) for target in TARGETS),
              *(str(figures.spread(ratios(name, other))) for other in middle)] for name in found]
    text = (f"{len(found[once]['direct'])} repetitions. Milliseconds for ten writes of 20,000 bytes, each then read, "
            "by redis-py, one request at a time. `cold`: a new client object each time, connecting included; `warm`: "
            "one that has been used. `cluster`: three masters with a replica each and redis-py's cluster client; the "
            "others have its plain client and three servers (`direct`: one). All processes share one core. A ratio is "
            "that of the two times of one repetition. Keys on each server: "
            + "; ".join(f"{kind} {', '.join(map(str, counts))}" for kind, counts in places.items()) + ".\n\n")
    head = ["", *TARGETS, *(f"ringway / {other}" for other in middle)]
    return Section("One client, one request at a time", bars, text + figures.table(head, lines))

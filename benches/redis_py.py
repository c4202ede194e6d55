"""One client of redis-py, which does as it is told on standard input, one order a line, and answers
each with the seconds that it took. Runs under a Python that has the library (one_client.py).

An order: {"target": NAME, "port": PORT, "cluster": BOOL, "warm": BOOL, "keys": KEYS, "reads": N}: each
key written, then read so often, one request at a time. Cold, with a client object of its own, so that
connecting is in the time; warm, with the one that is kept for the target.
"""

import gc
import json
import sys
import time

import redis

VALUE = b"x" * 20_000


def connect(order: dict) -> redis.Redis | redis.RedisCluster:
    kind = redis.RedisCluster if order["cluster"] else redis.Redis
    # The same for all: nutcracker closes a connection that says HELLO or CLIENT SETINFO.
    return kind(host="127.0.0.1", port=order["port"], protocol=2, driver_info=None)


def work(client: redis.Redis | redis.RedisCluster, keys: list[str], reads: int) -> None:
    for key in keys:
        client.set(key, VALUE)
        for _ in range(reads):
            if client.get(key) != VALUE:
                raise SystemExit("a value came back changed")


def main() -> None:
    kept: dict[str, redis.Redis | redis.RedisCluster] = {}
    gc.disable()
    for line in sys.stdin:
        order = json.loads(line)
        gc.collect()
        client = None
        if order["warm"]:
            if order["target"] not in kept:
                kept[order["target"]] = connect(order)
                work(kept[order["target"]], order["keys"], 1)
            client = kept[order["target"]]
        start = time.perf_counter()
        client = client or connect(order)
        work(client, order["keys"], order["reads"])
        print(time.perf_counter() - start, flush=True)
        if not order["warm"]:
            client.close()


if __name__ == "__main__":
    main()

"""redis-py through everyday use: redis_py.py PORT PROTOCOL. Prints the number of checks."""

import sys
import threading

import redis

PORT, PROTOCOL = int(sys.argv[1]), int(sys.argv[2])
checks = 0


def same(got, wanted):
    global checks
    checks += 1
    if got != wanted:
        raise SystemExit(f"check {checks}: got {got!r}, wanted {wanted!r}")


def refused(error, call, *args):
    global checks
    checks += 1
    try:
        got = call(*args)
    except error:
        return
    raise SystemExit(f"check {checks}: no {error.__name__} but {got!r}")


def connect(**options):
    return redis.Redis(port=PORT, protocol=PROTOCOL, decode_responses=True, socket_timeout=20, **options)


def flat(pairs):
    """Pairs come as tuples in RESP2 and as lists in RESP3."""
    return [tuple(pair) for pair in pairs]


r = connect()
same(r.ping(), True)
r.flushall()

# Strings, over all shards.
same(r.set("k", "v"), True)
same(r.get("k"), "v")
same(r.get("none"), None)
same(r.set("k", "w", nx=True), None)
same(r.set("t", "v", ex=100), True)
same(0 < r.ttl("t") <= 100, True)
same(r.mset({f"m:{n}": n for n in range(100)}), True)
same(r.mget([f"m:{n}" for n in range(100)]), [str(n) for n in range(100)])
same(r.exists(*[f"m:{n}" for n in range(100)]), 100)
same(r.incr("n"), 1)
same(r.incrbyfloat("f", 1.5), 1.5)
same(r.append("k", "x"), 2)
same(r.getrange("k", 0, 0), "v")
same(r.type("k"), "string")
same(r.delete("k", "t", "n", "f", "none"), 4)
same(r.dbsize(), 100)

# Hashes, lists, sets, sorted sets, streams.
same(r.hset("h", mapping={"a": 1, "b": 2}), 2)
same(r.hgetall("h"), {"a": "1", "b": "2"})
same(r.hmget("h", "a", "none"), ["1", None])
same(r.hincrby("h", "a", 4), 5)
same(dict(r.hscan_iter("h")), {"a": "5", "b": "2"})
same(r.rpush("l", 1, 2, 3), 3)
same(r.lrange("l", 0, -1), ["1", "2", "3"])
same(r.lpop("l"), "1")
same(r.lpos("l", "3"), 1)
same(r.sadd("s", "a", "b"), 2)
same(r.smembers("s"), {"a", "b"})
same(bool(r.sismember("s", "a")), True)
same(sorted(r.sscan_iter("s")), ["a", "b"])
same(r.zadd("z", {"a": 1, "b": 2.5}), 2)
same(flat(r.zrange("z", 0, -1, withscores=True)), [("a", 1.0), ("b", 2.5)])
same(r.zscore("z", "b"), 2.5)
same(flat(r.zscan_iter("z")), [("a", 1.0), ("b", 2.5)])
same(r.zrank("z", "b"), 1)
same(r.xadd("x", {"f": "v"}, id="1-1"), "1-1")
same(r.xlen("x"), 1)
same(r.xrange("x"), [("1-1", {"f": "v"})])
same(r.xgroup_create("x", "g", "0"), True)
same("1-1" in str(r.xreadgroup("g", "c", {"x": ">"})), True)
same(r.xack("x", "g", "1-1"), 1)
refused(redis.ResponseError, r.incr, "l")
refused(redis.ResponseError, r.execute_command, "NO-SUCH-COMMAND")

# Pipelines: without a transaction over all shards, with one on a shard.
with r.pipeline(transaction=False) as p:
    for n in range(500):
        p.set(f"p:{n}", n).get(f"p:{n}")
    same(p.execute(), [x for n in range(500) for x in (True, str(n))])
with r.pipeline(transaction=True) as p:
    p.set("{t}a", 1).incr("{t}a").get("{t}a").hset("{t}h", "f", "v").hgetall("{t}h")
    same(p.execute(), [True, 2, "2", 1, {"f": "v"}])
with r.pipeline() as p:
    p.watch("{t}a")
    same(p.get("{t}a"), "2")
    p.multi()
    p.set("{t}a", 3)
    same(p.execute(), [True])
with r.pipeline() as p:
    p.watch("{t}a")
    connect().set("{t}a", "changed")
    p.multi()
    p.set("{t}a", 4)
    refused(redis.WatchError, p.execute)
with r.pipeline(transaction=False) as p:
    p.set("{t}a", "x").incr("{t}a").get("{t}a")
    got = p.execute(raise_on_error=False)
    same([got[0], type(got[1]).__name__, got[2]], [True, "ResponseError", "x"])

# Scanning.
same(sorted(r.scan_iter("p:*", count=37)), sorted(f"p:{n}" for n in range(500)))
same(sorted(r.scan_iter(_type="stream")), ["x"])
same(len(r.keys("p:*")), 500)

# Publish and subscribe.
pubsub = r.pubsub()
pubsub.subscribe("news")
pubsub.psubscribe("pat*")
wanted = {"subscribe", "psubscribe"}
while wanted:
    wanted.discard((pubsub.get_message(timeout=5) or {}).get("type"))
same(r.publish("news", "hello"), 1)
message = pubsub.get_message(timeout=5)
same((message["type"], message["channel"], message["data"]), ("message", "news", "hello"))
same(r.publish("pattern", "hi"), 1)
message = pubsub.get_message(timeout=5)
same((message["type"], message["pattern"], message["data"]), ("pmessage", "pat*", "hi"))
pubsub.unsubscribe()
pubsub.punsubscribe()
pubsub.close()

# Scripts, on each shard.
script = r.register_script("redis.call('SET', KEYS[1], ARGV[1]) return redis.call('GET', KEYS[1])")
for n in range(20):
    same(script(keys=[f"script:{n}"], args=[n]), str(n))
same(r.eval("return {KEYS[1], ARGV[1]}", 1, "k", "a"), ["k", "a"])
sha = r.script_load("return 7")
same(r.script_exists(sha), [True])
same([r.evalsha(sha, 1, f"k{n}") for n in range(20)], [7] * 20)
refused(redis.exceptions.NoScriptError, r.evalsha, "f" * 40, 1, "k")

# A lock, taken by one only.
with r.lock("lock", timeout=10):
    same(r.lock("lock", timeout=10).acquire(blocking=False), False)
same(r.exists("lock"), 0)

# Blocking.
same(r.blpop(["queue"], timeout=1), None)
timer = threading.Timer(0.1, lambda: connect().rpush("queue", "job"))
timer.start()
same(tuple(r.blpop(["queue"], timeout=10)), ("queue", "job"))
timer.join()

# The connection itself.
named = connect(client_name="me")
same(named.client_getname(), "me")
same(named.client_setname("other"), True)
same("other" in [client["name"] for client in r.client_list()], True)
same(isinstance(named.client_id(), int), True)
same(connect(db=3).set("in", "three"), True)
same((r.get("in"), connect(db=3).get("in")), (None, "three"))
same("redis_version" in r.info(), True)
same(r.config_get("maxmemory")["maxmemory"], "0")
same(r.time()[0] > 1_000_000_000, True)

# A pool under several threads.
pool = redis.Redis(connection_pool=redis.BlockingConnectionPool(
    port=PORT, protocol=PROTOCOL, decode_responses=True, max_connections=5, timeout=20))


def work(number, wrong):
    for n in range(200):
        key = f"pool:{number}:{n}"
        pool.set(key, key)
        if pool.get(key) != key:
            wrong.append(key)


wrong = []
threads = [threading.Thread(target=work, args=(number, wrong)) for number in range(10)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
same(wrong, [])
r.flushall()
same(r.dbsize(), 0)
print(f"redis-py {redis.__version__}, RESP{PROTOCOL}: checks {checks}")

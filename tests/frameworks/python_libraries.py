"""Libraries for Python that keep their state in Redis: locks, limits, caches, sessions, schedulers."""

import subprocess
import sys
import threading
import time

import django
from django.conf import settings
from limits import RateLimitItemPerHour
from limits.storage import storage_from_string
from limits.strategies import FixedWindowRateLimiter, MovingWindowRateLimiter, SlidingWindowCounterRateLimiter

from record import URL, connection, same

checks = 0


def check(got, wanted):
    global checks
    checks += 1
    same(got, wanted)


# redis-py's lock: between processes, nobody's addition is lost.
if len(sys.argv) > 1:
    for _ in range(50):
        with connection.lock("library:lock", timeout=10, sleep=0.005):
            connection.set("library:sum", int(connection.get("library:sum") or 0) + 1)
    sys.exit()
adders = [subprocess.Popen([sys.executable, __file__, "adder"]) for _ in range(3)]
check([adder.wait(60) for adder in adders], [0, 0, 0])
check(connection.get("library:sum"), b"150")
lock = connection.lock("library:other", timeout=5)
check(lock.acquire(), True)
check(lock.extend(5), True)
check(connection.lock("library:other").acquire(blocking=False), False)
lock.release()

# Pipelines, with and without a transaction, over all shards, and WATCH in one that repeats.
for transaction in (False, True):
    with connection.pipeline(transaction=transaction) as pipeline:
        for n in range(100):
            pipeline.set(f"library:pipe:{n}", n).incr(f"library:pipe:{n}")
        check(pipeline.execute(), [x for n in range(100) for x in (True, n + 1)])


def add(count):
    for _ in range(count):
        connection.transaction(
            lambda pipe: (lambda value: (pipe.multi(), pipe.set("library:watched", value + 1)))(
                int(pipe.get("library:watched") or 0)),
            "library:watched")


threads = [threading.Thread(target=add, args=(50,)) for _ in range(4)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
check(connection.get("library:watched"), b"200")

# Publish and subscribe, by name and pattern, in a thread.
heard = []
pubsub = connection.pubsub(ignore_subscribe_messages=True)
pubsub.subscribe(**{"library:news": lambda message: heard.append(message["data"])})
pubsub.psubscribe(**{"library:*": lambda message: heard.append(message["pattern"])})
thread = pubsub.run_in_thread(sleep_time=0.01)
while connection.publish("library:news", "hello") < 2:
    time.sleep(0.01)
# A message that is lost keeps this waiting until it is killed.
while not {b"hello", b"library:*"} <= set(heard):
    time.sleep(0.01)
checks += 1
thread.stop()
thread.join()

# limits: each strategy lets through as many as it is told to.
storage = storage_from_string(URL)
for kind in (FixedWindowRateLimiter, MovingWindowRateLimiter, SlidingWindowCounterRateLimiter):
    limiter, item = kind(storage), RateLimitItemPerHour(7)
    for user in ("ada", "grace"):
        check(sum(limiter.hit(item, kind.__name__, user) for _ in range(20)), 7)

# Django's cache and sessions over django-redis.
settings.configure(
    CACHES={"default": {"BACKEND": "django_redis.cache.RedisCache", "LOCATION": URL}},
    SESSION_ENGINE="django.contrib.sessions.backends.cache", INSTALLED_APPS=["django.contrib.sessions"],
    SECRET_KEY="x",
)
django.setup()
from django.contrib.sessions.backends.cache import SessionStore  # noqa: E402
from django.core.cache import cache  # noqa: E402

cache.set_many({f"cache:{n}": {"n": n} for n in range(200)}, timeout=60)
check(len(cache.get_many([f"cache:{n}" for n in range(200)])), 200)
check(cache.incr("counter", 5) if cache.add("counter", 1) else None, 6)
check(cache.ttl("cache:1") > 0, True)
check(len(list(cache.iter_keys("cache:*"))), 200)
check(cache.delete_pattern("cache:*"), 200)
check(cache.get("cache:1", "gone"), "gone")
with cache.lock("cache:lock", timeout=5):
    check(cache.add("cache:lock", 1), False)
for user in range(10):
    session = SessionStore()
    session["user"] = user
    session.save()
    check(SessionStore(session.session_key)["user"], user)

# Streams with a group of consumers.
connection.xgroup_create("library:stream", "group", id="0", mkstream=True)
for n in range(100):
    connection.xadd("library:stream", {"n": n})
seen = []
for consumer in ("one", "two"):
    for _, entries in connection.xreadgroup("group", consumer, {"library:stream": ">"}, count=50, block=1000):
        seen += [int(fields[b"n"]) for _, fields in entries]
        connection.xack("library:stream", "group", *[entry for entry, _ in entries])
check(sorted(seen), list(range(100)))
check(connection.xpending("library:stream", "group")["pending"], 0)
print(f"python libraries: checks {checks}")

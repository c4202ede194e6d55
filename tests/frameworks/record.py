"""What every Python framework's driver needs: where to connect, and how an executed job is written down.

Twice: in a file that Redis knows nothing of, and by an INCR through the proxy, so that keys of the
run lie on every shard. tests/long_frameworks.rs counts both. Jobs from number JOBS on are those that
run while shards die: they are sent first, and nobody asks for their results.
"""

import contextlib
import os
import subprocess
import sys
import threading
import time

import redis

PORT = int(os.environ["REDIS_PORT"])
JOBS = int(os.environ["JOBS"])
JOBS_AMID_DEATHS = int(os.environ["JOBS_AMID_DEATHS"])
# What a shard's death may be to a client: "reply", an error that says so, or "close", a broken connection.
SHARD_ERRORS = os.environ["SHARD_ERRORS"]
DEFINED = ("SHARDDOWN ", "SHARDLOST ", "SHARDTIMEOUT ")
# What else may be said meanwhile: one shard of several ran something, or one that is back reads its data.
SAID = ("SHARDPARTIAL ", "LOADING", "loading the dataset")
# A file that is there when all shards are back for good.
DEATHS_OVER = os.environ["EXECUTED"] + ".deaths-over"
# A job that is not executed for so long went down with a shard: its sender sends it again.
QUIET_SECONDS = 10
URL = f"redis://127.0.0.1:{PORT}/0"
HERE = os.path.dirname(os.path.abspath(__file__))

connection = redis.Redis(port=PORT)


def executed(number):
    """Job `number` runs now."""
    file = os.open(os.environ["EXECUTED"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(file, f"{number}\n".encode())
    os.close(file)
    try:
        connection.incr(f"executed:{number}")
    except redis.RedisError as error:
        if number < JOBS or not is_defined(error):
            raise


def numbers():
    """The executed jobs, in their order."""
    try:
        with open(os.environ["EXECUTED"], encoding="ascii") as file:
            return [int(line) for line in file]
    except FileNotFoundError:
        return []


def until_executed(meanwhile=lambda: None):
    """Returns when as many jobs ran as there are, and a moment later, when one too many would show."""
    while sum(number < JOBS for number in numbers()) < JOBS:
        time.sleep(0.05)
        meanwhile()
    time.sleep(1)


def is_defined(error):
    """Whether the cause of an error, which a framework may have wrapped, is a shard that is not there."""
    if error is None:
        return False
    words = SAID if SHARD_ERRORS == "close" else SAID + DEFINED
    is_broken = SHARD_ERRORS == "close" and "Connection" in type(error).__name__
    return is_broken or any(word in str(error) for word in words) or is_defined(error.__cause__ or error.__context__)


class Sending:
    """One attempt to send a job; `with sending:` takes the errors that may come while shards die."""

    def __init__(self, number):
        self.number, self.done = number, False

    def __enter__(self):
        return self.number

    def __exit__(self, _, error, __):
        self.done = error is None
        return self.done or is_defined(error)


def amid_deaths():
    """Gives the jobs to send while shards die, each until that succeeds and until it is executed."""
    missing = set(range(JOBS, JOBS + JOBS_AMID_DEATHS))
    while missing:
        for number in sorted(missing):
            sending = Sending(number)
            while not sending.done:
                yield sending
                time.sleep(0.01)
        end = time.monotonic() + QUIET_SECONDS
        while missing and time.monotonic() < end:
            time.sleep(0.05)
            left = missing.difference(numbers())
            if left != missing:
                missing, end = left, time.monotonic() + QUIET_SECONDS
        if missing:
            print("amid deaths: sent again", *sorted(missing), flush=True)
    while JOBS_AMID_DEATHS and not os.path.exists(DEATHS_OVER):
        time.sleep(0.05)


@contextlib.contextmanager
def workers(*commands):
    """Runs worker processes meanwhile; those that end are started again, as whoever runs them in earnest does."""
    running = [subprocess.Popen(command, cwd=HERE) for command in commands]
    over = threading.Event()

    def supervise():
        while not over.wait(0.05):
            for at, command in enumerate(commands):
                if running[at].poll() is not None:
                    print("amid deaths: a worker ended", command, flush=True)
                    running[at] = subprocess.Popen(command, cwd=HERE)

    supervisor = threading.Thread(target=supervise)
    if JOBS_AMID_DEATHS:
        supervisor.start()
    try:
        yield
    finally:
        over.set()
        if JOBS_AMID_DEATHS:
            supervisor.join()
        for process in running:
            process.terminate()
        for process in running:
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def same(got, wanted):
    if got != wanted:
        sys.exit(f"got {got!r}, wanted {wanted!r}")

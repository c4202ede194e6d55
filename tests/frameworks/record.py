"""What every Python framework's driver needs: where to connect, and how an executed job is written down.

Twice: in a file that Redis knows nothing of, and by an INCR through the proxy, so that keys of the
run lie on every shard. tests/long_frameworks.rs counts both.
"""

import contextlib
import os
import subprocess
import sys
import time

import redis

PORT = int(os.environ["REDIS_PORT"])
JOBS = int(os.environ["JOBS"])
URL = f"redis://127.0.0.1:{PORT}/0"
HERE = os.path.dirname(os.path.abspath(__file__))

connection = redis.Redis(port=PORT)


def executed(number):
    """Job `number` runs now."""
    file = os.open(os.environ["EXECUTED"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(file, f"{number}\n".encode())
    os.close(file)
    connection.incr(f"executed:{number}")


def count():
    try:
        with open(os.environ["EXECUTED"], encoding="ascii") as file:
            return sum(1 for _ in file)
    except FileNotFoundError:
        return 0


def until_executed():
    """Returns when as many jobs ran as there are, and a moment later, when one too many would show."""
    while count() < JOBS:
        time.sleep(0.05)
    time.sleep(1)


@contextlib.contextmanager
def workers(*commands):
    """Runs worker processes meanwhile."""
    running = [subprocess.Popen(command, cwd=HERE) for command in commands]
    try:
        yield
    finally:
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

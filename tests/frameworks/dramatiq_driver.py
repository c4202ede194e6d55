"""Dramatiq: its own worker processes, two queues, results, delayed messages."""

import sys

import dramatiq
from dramatiq.brokers.redis import RedisBroker
from dramatiq.results import Results
from dramatiq.results.backends import RedisBackend

from record import JOBS, URL, amid_deaths, executed, same, until_executed, workers

broker = RedisBroker(url=URL)
broker.add_middleware(Results(backend=RedisBackend(url=URL)))
dramatiq.set_broker(broker)


@dramatiq.actor(store_results=True)
def job(number):
    executed(number)
    return number


@dramatiq.actor(store_results=True, queue_name="urgent")
def urgent(number):
    executed(number)
    return number


if __name__ == "__main__":
    import dramatiq_driver as driver

    with workers([sys.executable, "-m", "dramatiq", "dramatiq_driver", "-p", "1", "-t", "4"]):
        for sending in amid_deaths():
            with sending as n:
                driver.job.send(n)
        messages = []
        for n in range(JOBS):
            actor = driver.urgent if n % 3 == 0 else driver.job
            messages.append(actor.send_with_options(args=(n,), delay=1000 if n % 50 == 0 else None))
        until_executed()
        same([message.get_result(block=True, timeout=20000) for message in messages], list(range(JOBS)))

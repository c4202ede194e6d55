"""Celery with Redis as broker and as result backend: priorities, results, chords."""

import sys

from celery import Celery, chord

from record import JOBS, URL, amid_deaths, executed, same, until_executed, workers

app = Celery("celery_driver", broker=URL, backend=URL)
# Priorities become lists of their own, which the worker waits for together.
app.conf.broker_transport_options = {"queue_order_strategy": "priority"}


@app.task
def job(number):
    executed(number)
    return number


@app.task
def total(numbers):
    return sum(numbers)


if __name__ == "__main__":
    with workers([sys.executable, "-m", "celery", "-A", "celery_driver", "worker", "-c", "2", "-l", "WARNING"]):
        for sending in amid_deaths():
            with sending as n:
                try:
                    job.apply_async((n,), priority=n % 10)
                except AttributeError as error:
                    # What kombu says of a connection that was closed under it; the next attempt makes a new one.
                    if "'NoneType' object has no attribute 'client'" not in str(error):
                        raise
                    raise ConnectionError from error
        chords = JOBS // 10
        alone = [job.apply_async((n,), priority=n % 10) for n in range(JOBS - chords)]
        numbers = list(range(JOBS - chords, JOBS))
        sums = [chord(job.s(n) for n in numbers[at:at + 10])(total.s()) for at in range(0, len(numbers), 10)]
        same([result.get(timeout=100) for result in alone], list(range(JOBS - chords)))
        same(sum(result.get(timeout=100) for result in sums), sum(numbers))
        until_executed()

"""Taskiq: a broker on lists and one on streams with consumer groups, results."""

import asyncio
import sys

from taskiq_redis import ListQueueBroker, RedisAsyncResultBackend, RedisStreamBroker

from record import JOBS, URL, amid_deaths, executed, same, until_executed, workers

lists = ListQueueBroker(URL).with_result_backend(RedisAsyncResultBackend(URL))
streams = RedisStreamBroker(URL, queue_name="taskiq_streams", consumer_group_name="taskiq_streams").with_result_backend(RedisAsyncResultBackend(URL))


@lists.task
def job(number: int) -> int:
    executed(number)
    return number


@streams.task
def streamed(number: int) -> int:
    executed(number)
    return number


async def send():
    import taskiq_driver as driver

    await lists.startup()
    await streams.startup()
    for sending in amid_deaths():
        with sending as n:
            await (driver.streamed if n % 2 else driver.job).kiq(n)
    tasks = [await (driver.streamed if n % 2 else driver.job).kiq(n) for n in range(JOBS)]
    results = [(await task.wait_result(timeout=100)).return_value for task in tasks]
    same(results, list(range(JOBS)))
    await lists.shutdown()
    await streams.shutdown()


if __name__ == "__main__":
    worker = [sys.executable, "-m", "taskiq", "worker", "--workers", "1", "--log-level", "WARNING"]
    with workers([*worker, "taskiq_driver:lists"], [*worker, "taskiq_driver:streams"]):
        asyncio.run(send())
        until_executed()

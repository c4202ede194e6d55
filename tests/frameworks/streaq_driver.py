"""streaQ, which is built on streams, functions and coredis: a worker, priorities, results, delays, dependents."""

import asyncio
import sys

from streaq import Worker

from record import JOBS, URL, amid_deaths, executed, same, until_executed, workers

worker = Worker(redis_url=URL, concurrency=4, priorities=["low", "high"])


@worker.task
async def job(number: int) -> int:
    executed(number)
    return number


async def send():
    import streaq_driver as driver

    async with driver.worker:
        for sending in amid_deaths():
            with sending as n:
                await driver.job.enqueue(n)
        tasks = []
        for n in range(JOBS):
            task = driver.job.enqueue(n)
            if n % 50 == 0:
                task = task.start(delay=1)
            elif n % 20 == 19:
                task = task.start(after=[tasks[-1].id, tasks[-2].id])
            else:
                task = task.start(priority="high" if n % 3 else "low")
            tasks.append(await task)
        # Each result costs the client a subscription, which is slow with coredis whatever the server is.
        same([(await task.result(100)).result for task in tasks[::20]], list(range(0, JOBS, 20)))


if __name__ == "__main__":
    with workers([sys.executable, "-m", "streaq", "run", "streaq_driver:worker"]):
        asyncio.run(send())
        until_executed()

"""arq: a worker, results, deferred jobs."""

import asyncio
import sys

from arq import create_pool
from arq.connections import RedisSettings

from record import JOBS, PORT, amid_deaths, executed, same, until_executed, workers


async def job(_, number):
    executed(number)
    return number


class WorkerSettings:
    functions = [job]
    redis_settings = RedisSettings(port=PORT)
    poll_delay = 0.1


async def send():
    pool = await create_pool(WorkerSettings.redis_settings)
    for sending in amid_deaths():
        with sending as n:
            await pool.enqueue_job("job", n)
    jobs = [await pool.enqueue_job("job", n, _defer_by=1 if n % 50 == 0 else None) for n in range(JOBS)]
    same([await job.result(timeout=100, poll_delay=0.05) for job in jobs], list(range(JOBS)))
    await pool.aclose()


if __name__ == "__main__":
    with workers([sys.executable, "-m", "arq", "arq_driver.WorkerSettings"]):
        asyncio.run(send())
        until_executed()

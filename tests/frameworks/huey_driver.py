"""Huey: its consumer with two workers, results, delayed tasks."""

import sys

from huey import RedisHuey

from record import JOBS, URL, amid_deaths, executed, same, until_executed, workers

huey = RedisHuey("driver", url=URL)


@huey.task()
def job(number):
    executed(number)
    return number


if __name__ == "__main__":
    import huey_driver

    with workers([sys.executable, "-m", "huey.bin.huey_consumer", "huey_driver.huey", "-w", "2", "-q"]):
        for sending in amid_deaths():
            with sending as n:
                huey_driver.job(n)
        results = [
            huey_driver.job.schedule((n,), delay=1) if n % 50 == 0 else huey_driver.job(n) for n in range(JOBS)
        ]
        until_executed()
        same([result.get(blocking=True, timeout=20) for result in results], list(range(JOBS)))

"""RQ and rq-scheduler: two workers, two queues, results, jobs that depend on others, scheduled jobs."""

import datetime
import sys
import time

from rq import Queue, SimpleWorker, Worker
from rq_scheduler import Scheduler

from record import JOBS, JOBS_AMID_DEATHS, amid_deaths, connection, executed, same, until_executed, workers


def job(number):
    executed(number)
    return number


if __name__ == "__main__":
    if sys.argv[1:] == ["scheduler"]:
        Scheduler(connection=connection, interval=1).run()
        sys.exit()
    if len(sys.argv) > 1:
        # One forks for each job, as RQ does by default; one does not.
        kind = {"fork": Worker, "simple": SimpleWorker}[sys.argv[1]]
        kind(["high", "default"], connection=connection).work(with_scheduler=sys.argv[1] == "fork", logging_level="WARNING")
        sys.exit()
    default, high = Queue(connection=connection), Queue("high", connection=connection)
    import rq_driver

    commands = [[sys.executable, __file__, kind] for kind in ("simple", "fork", "scheduler")]
    scheduler = Scheduler(connection=connection)
    with workers(*commands):
        for sending in amid_deaths():
            with sending as n:
                default.enqueue(rq_driver.job, n)
        jobs = []
        for n in range(JOBS):
            queue = high if n % 3 == 0 else default
            if n % 20 == 19:
                jobs.append(queue.enqueue(rq_driver.job, n, depends_on=[jobs[-1], jobs[-2]]))
            elif n % 50 in (10, 12) and JOBS_AMID_DEATHS:
                # A scheduler that ended leaves a lock behind, which keeps the next one waiting for minutes.
                jobs.append(queue.enqueue(rq_driver.job, n))
            elif n % 50 == 10:
                jobs.append(queue.enqueue_in(datetime.timedelta(seconds=1), rq_driver.job, n))
            elif n % 50 == 12:
                jobs.append(scheduler.enqueue_in(datetime.timedelta(seconds=1), rq_driver.job, n))
            else:
                jobs.append(queue.enqueue(rq_driver.job, n))
        # What a job depends on may end at two workers at once: RQ then leaves the job "ready" until a worker's
        # maintenance, every ten minutes.
        until_executed(lambda: [queue.ready_job_registry.cleanup() for queue in (default, high)])
        deadline = time.time() + 20
        while time.time() < deadline and not all(job.get_status() == "finished" for job in jobs):
            time.sleep(0.2)
        same([job.return_value() for job in jobs], list(range(JOBS)))

// Bee-Queue: queues on several shards, delayed jobs.
import { amidDeaths, executed, jobs, load, redis, untilExecuted } from './record.mjs'

const Queue = load('bee-queue')
const queues = ['mail', 'video', 'reports'].map((name) => new Queue(name, { redis, activateDelayedJobs: true }))
let succeeded = 0
for (const queue of queues) {
  queue.on('error', (error) => console.error(error.message))
  queue.on('succeeded', () => succeeded++)
  queue.process(5, async (job) => {
    await executed(job.data.number)
    return job.data.number
  })
}
await amidDeaths((number) => queues[number % queues.length].createJob({ number }).save())
succeeded = 0
for (let number = 0; number < jobs; number++) {
  const job = queues[number % queues.length].createJob({ number })
  if (number % 50 === 0) job.delayUntil(Date.now() + 500)
  await job.save()
}
await untilExecuted()
if (succeeded !== jobs) throw new Error(`${succeeded} jobs succeeded`)
await Promise.all(queues.map((queue) => queue.close(5000)))
process.exit()

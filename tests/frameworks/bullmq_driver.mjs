// BullMQ: queues on several shards, priorities, delays, bulk adding, results by events.
import { amidDeaths, executed, jobs, load, redis, same, untilExecuted } from './record.mjs'

const { Queue, QueueEvents, Worker } = load('bullmq')
// Blocking commands of a worker may wait for ever.
const connection = { ...redis, maxRetriesPerRequest: null }
const names = ['mail', 'video', 'reports', 'billing', 'search', 'images']
const queues = names.map((name) => new Queue(name, { connection }))
const events = names.map((name) => new QueueEvents(name, { connection }))
const workers = names.map((name) => {
  const run = async (job) => {
    await executed(job.data.number)
    return job.data.number
  }
  return new Worker(name, run, { connection, concurrency: 5 })
})
workers.forEach((worker) => worker.on('error', (error) => console.error(error.message)))
await Promise.all(events.map((events) => events.waitUntilReady()))

await amidDeaths((number) => queues[number % names.length].add('job', { number }))
const added = []
for (let number = 0; number < jobs; number++) {
  const at = number % names.length
  const options = number % 7 === 0 ? { priority: 1 + (number % 5) } : number % 11 === 0 ? { delay: 500 } : {}
  added.push([await queues[at].add('job', { number }, options), events[at]])
}
await untilExecuted()
same(await Promise.all(added.map(([job, events]) => job.waitUntilFinished(events, 20000))), [...Array(jobs).keys()])
for (const queue of queues) same((await queue.getJobCounts('wait', 'active', 'failed', 'delayed')).failed, 0)
await Promise.all([...workers, ...events, ...queues].map((one) => one.close()))
process.exit()

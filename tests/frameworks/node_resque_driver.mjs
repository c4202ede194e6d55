// node-resque, in the manner of Resque: a scheduler and three workers over two queues, delays, locks.
import { amidDeaths, executed, jobs, load, redis, same, untilExecuted } from './record.mjs'

const { Plugins, Queue, Scheduler, Worker } = load('node-resque')
const connection = { pkg: 'ioredis', host: redis.host, port: redis.port, database: 0, options: {} }
const tasks = {
  job: { perform: (number) => executed(number) },
  locked: { plugins: [Plugins.QueueLock], perform: (number) => executed(number) },
}
const fail = (error) => console.error(error.message ?? error)
const queue = new Queue({ connection }, tasks)
await queue.connect()
const workers = await Promise.all([0, 1, 2].map(async (number) => {
  const worker = new Worker({ connection, queues: ['urgent', 'default'], timeout: 50, name: `worker:${number}` }, tasks)
  worker.on('error', fail)
  worker.on('failure', (_queue, _job, error) => fail(error))
  await worker.connect()
  worker.start()
  return worker
}))
await amidDeaths((number) => queue.enqueue('default', 'job', [number]))
// A scheduler stops for good at its first error, whatever that is.
const scheduler = new Scheduler({ connection, timeout: 200 })
await scheduler.connect()
scheduler.on('error', fail)
scheduler.start()
const before = Number((await queue.stats()).processed ?? 0)
for (let number = 0; number < jobs; number++) {
  const name = number % 3 ? 'default' : 'urgent'
  if (number % 50 === 0) await queue.enqueueIn(500, name, 'job', [number])
  else await queue.enqueue(name, number % 7 ? 'job' : 'locked', [number])
}
await untilExecuted()
same([await queue.length('default'), await queue.length('urgent'), await queue.failedCount()], [0, 0, 0])
const statistics = await queue.stats()
same(Number(statistics.processed) - before, jobs)
await Promise.all([...workers, scheduler, queue].map((one) => one.end()))
process.exit()

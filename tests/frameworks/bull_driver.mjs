// Bull: queues on several shards, priorities, delays.
import { amidDeaths, executed, jobs, load, redis, same, untilExecuted } from './record.mjs'

const Queue = load('bull')
const queues = ['mail', 'video', 'reports'].map((name) => new Queue(name, { redis }))
for (const queue of queues) {
  queue.on('error', (error) => console.error(error.message))
  queue.process(5, async (job) => {
    await executed(job.data.number)
    return job.data.number
  })
}
await amidDeaths((number) => queues[number % queues.length].add({ number }))
const added = []
for (let number = 0; number < jobs; number++) {
  const options = number % 7 === 0 ? { priority: 1 + (number % 5) } : number % 11 === 0 ? { delay: 500 } : {}
  added.push(await queues[number % queues.length].add({ number }, options))
}
await untilExecuted()
same(await Promise.all(added.map((job) => job.finished())), [...Array(jobs).keys()])
await Promise.all(queues.map((queue) => queue.close()))
process.exit()

// What every Node framework's driver needs: where to connect, and how an executed job is written
// down: in a file that Redis knows nothing of, and by an INCR through the proxy. Jobs from number
// `jobs` on are those that run while shards die: they are sent first.
import { appendFileSync, existsSync, readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { setTimeout as sleep } from 'node:timers/promises'

// Modules live where setup.sh put them.
export const load = createRequire(`${process.env.MODULES}/`)
export const port = Number(process.env.REDIS_PORT)
export const jobs = Number(process.env.JOBS)
const jobsAmidDeaths = Number(process.env.JOBS_AMID_DEATHS)
// A job that is not executed for so long went down with a shard: its sender sends it again.
const quietTime = 10000
export const redis = { host: '127.0.0.1', port }

const { Redis } = load('ioredis')
export const connection = new Redis(redis)

// Whether an error says that a shard is not there, or is the end of a connection where that is what it means.
const defined =
  process.env.SHARD_ERRORS === 'close'
    ? /Connection is closed|max retries per request|\bSHARDPARTIAL |\bLOADING /
    : /\bSHARD(DOWN|LOST|TIMEOUT|PARTIAL) |\bLOADING /
const isDefined = (error) => defined.test(error?.message)

export async function executed(number) {
  appendFileSync(process.env.EXECUTED, `${number}\n`)
  await connection.incr(`executed:${number}`).catch((error) => {
    if (number < jobs || !isDefined(error)) throw error
  })
}

// The executed jobs, in their order.
const numbers = () =>
  existsSync(process.env.EXECUTED) ? readFileSync(process.env.EXECUTED, 'ascii').split('\n').slice(0, -1).map(Number) : []

// Returns when as many jobs ran as there are, and a moment later, when one too many would show.
export async function untilExecuted() {
  while (numbers().filter((number) => number < jobs).length < jobs) await sleep(50)
  await sleep(1000)
}

// Sends jobs while shards die, each until that succeeds and until it is executed.
export async function amidDeaths(send) {
  let missing = [...Array(jobsAmidDeaths).keys()].map((at) => jobs + at)
  while (missing.length > 0) {
    for (const number of missing) {
      const attempt = () =>
        send(number).then(() => true, (error) => {
          if (!isDefined(error)) throw error
          return false
        })
      do await sleep(10)
      while (!(await attempt()))
    }
    for (let end = Date.now() + quietTime; missing.length > 0 && Date.now() < end; await sleep(50)) {
      const done = new Set(numbers())
      const left = missing.filter((number) => !done.has(number))
      if (left.length < missing.length) end = Date.now() + quietTime
      missing = left
    }
    if (missing.length > 0) console.log('amid deaths: sent again', missing.join(' '))
  }
  // A file that is there when all shards are back for good.
  while (jobsAmidDeaths > 0 && !existsSync(`${process.env.EXECUTED}.deaths-over`)) await sleep(50)
}

export function same(got, wanted) {
  const [a, b] = [JSON.stringify(got), JSON.stringify(wanted)]
  if (a !== b) throw new Error(`got ${a}, wanted ${b}`)
}

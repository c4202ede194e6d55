// What every Node framework's driver needs: where to connect, and how an executed job is written
// down: in a file that Redis knows nothing of, and by an INCR through the proxy.
import { appendFileSync, existsSync, readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { setTimeout as sleep } from 'node:timers/promises'

// Modules live where setup.sh put them.
export const load = createRequire(`${process.env.MODULES}/`)
export const port = Number(process.env.REDIS_PORT)
export const jobs = Number(process.env.JOBS)
export const redis = { host: '127.0.0.1', port }

const { Redis } = load('ioredis')
export const connection = new Redis(redis)

export async function executed(number) {
  appendFileSync(process.env.EXECUTED, `${number}\n`)
  await connection.incr(`executed:${number}`)
}

// Returns when as many jobs ran as there are, and a moment later, when one too many would show.
export async function untilExecuted() {
  const count = () =>
    existsSync(process.env.EXECUTED) ? readFileSync(process.env.EXECUTED, 'ascii').split('\n').length - 1 : 0
  while (count() < jobs) await sleep(50)
  await sleep(1000)
}

export function same(got, wanted) {
  const [a, b] = [JSON.stringify(got), JSON.stringify(wanted)]
  if (a !== b) throw new Error(`got ${a}, wanted ${b}`)
}

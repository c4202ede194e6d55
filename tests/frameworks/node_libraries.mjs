// Libraries for Node that keep their state in Redis: sessions, locks, rate limits, rooms of sockets.
import { createServer } from 'node:http'
import { once } from 'node:events'
import { load, port, redis, same } from './record.mjs'

const { createClient } = load('redis')
const { Redis, Cluster } = load('ioredis')
let checks = 0
const check = (got, wanted) => {
  checks++
  same(got, wanted)
}

// ioredis: automatic pipelines, a transaction, a script of its own, scanning, publish and subscribe.
const client = new Redis({ ...redis, enableAutoPipelining: true })
const numbers = [...Array(500).keys()]
await Promise.all(numbers.map((n) => client.set(`io:${n}`, n)))
check(await Promise.all(numbers.map((n) => client.get(`io:${n}`))), numbers.map(String))
check(await client.mget(numbers.map((n) => `io:${n}`)), numbers.map(String))
check(await client.multi().set('io:a', 1).incr('io:a').set('io:b', 5).get('io:b').exec(), [
  [null, 'OK'], [null, 2], [null, 'OK'], [null, '5'],
])
client.defineCommand('double', { numberOfKeys: 1, lua: "return redis.call('GET', KEYS[1]) * 2" })
check(await Promise.all(numbers.slice(0, 50).map((n) => client.double(`io:${n}`))), numbers.slice(0, 50).map((n) => n * 2))
const found = new Set()
for await (const keys of client.scanStream({ match: 'io:*', count: 50 })) keys.forEach((key) => found.add(key))
check(found.size, 502)
const listener = new Redis(redis)
await listener.subscribe('io:news')
const heard = once(listener, 'message')
check(await client.publish('io:news', 'hello'), 1)
check(await heard, ['io:news', 'hello'])
check(await client.getBuffer('io:none'), null)
await client.xadd('io:stream', '*', 'f', 'v')
await client.xgroup('CREATE', 'io:stream', 'g', '0')
check((await client.xreadgroup('GROUP', 'g', 'c', 'STREAMS', 'io:stream', '>'))[0][1][0][1], ['f', 'v'])

// Redlock on one server, as it is told to: who has the lock is alone.
const Redlock = load('redlock')
const redlock = new Redlock([client], { retryCount: 200, retryDelay: 10, retryJitter: 10 })
let inside = 0
let most = 0
await Promise.all(numbers.slice(0, 20).map(async () => {
  const lock = await redlock.lock('locks:stock', 2000)
  most = Math.max(most, ++inside)
  await new Promise((done) => setTimeout(done, 2))
  inside--
  await lock.unlock()
}))
check(most, 1)

// express-session over connect-redis and node-redis in RESP3.
const session = load('express-session')
const { RedisStore } = load('connect-redis')
const node = await createClient({ socket: { host: '127.0.0.1', port }, RESP: 3 }).connect()
const store = new RedisStore({ client: node, prefix: 'sess:', ttl: 60 })
const middleware = session({ store, secret: 's', resave: false, saveUninitialized: true })
const web = createServer((request, response) => middleware(request, response, () => {
  request.session.views = (request.session.views || 0) + 1
  response.end(String(request.session.views))
}))
web.listen(0, '127.0.0.1')
await once(web, 'listening')
const page = `http://127.0.0.1:${web.address().port}/`
for (let visitor = 0; visitor < 10; visitor++) {
  const first = await fetch(page)
  check(await first.text(), '1')
  const cookie = first.headers.get('set-cookie').split(';')[0]
  check(await (await fetch(page, { headers: { cookie } })).text(), '2')
}
const length = () => new Promise((done, fail) => store.length((error, count) => (error ? fail(error) : done(count))))
check(await length(), 10)
await new Promise((done, fail) => store.clear((error) => (error ? fail(error) : done())))
check(await length(), 0)
web.close()

// rate-limiter-flexible: exactly as many as are allowed.
const { RateLimiterRedis } = load('rate-limiter-flexible')
const limiter = new RateLimiterRedis({ storeClient: client, keyPrefix: 'limit', points: 10, duration: 60 })
const tries = await Promise.allSettled(numbers.slice(0, 60).map((n) => limiter.consume(`user${n % 3}`)))
check(tries.filter((one) => one.status === 'fulfilled').length, 30)

// Socket.IO: two servers whose rooms are one, by the Redis adapter.
const { Server } = load('socket.io')
const { createAdapter } = load('@socket.io/redis-adapter')
const { io } = load('socket.io-client')
const servers = await Promise.all([0, 1].map(async () => {
  const http = createServer()
  const server = new Server(http, { adapter: createAdapter(new Redis(redis), new Redis(redis)) })
  server.on('connection', (socket) => socket.join('room'))
  http.listen(0, '127.0.0.1')
  await once(http, 'listening')
  return { server, http }
}))
const sockets = servers.map(({ http }) => io(`http://127.0.0.1:${http.address().port}`, { transports: ['websocket'] }))
await Promise.all(sockets.map((socket) => new Promise((done) => socket.on('connect', done))))
// Each server knows of the other's subscription once it counts two of them.
while ((await servers[0].server.in('room').fetchSockets()).length < 2) await new Promise((done) => setTimeout(done, 20))
const got = Promise.all(sockets.map((socket) => new Promise((done) => socket.on('news', done))))
servers[0].server.to('room').emit('news', 42)
check(await got, [42, 42])

console.log(`node libraries: checks ${checks}`)
process.exit()

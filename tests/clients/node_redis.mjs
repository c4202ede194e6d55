// node-redis through everyday use: node_redis.mjs PORT PROTOCOL DIRECTORY, where DIRECTORY holds
// its node_modules. Prints the number of checks.

import assert from "node:assert/strict";
import { createRequire } from "node:module";

const [port, protocol, directory] = process.argv.slice(2);
const require = createRequire(`${directory}/`);
const { createClient, createClientPool, WatchError } = require("redis");
const { version } = require("redis/package.json");

let checks = 0;
const same = (got, wanted) => {
  checks += 1;
  // Maps of RESP3 come without a prototype.
  assert.deepEqual(JSON.parse(JSON.stringify(got ?? null)), JSON.parse(JSON.stringify(wanted)), `check ${checks}`);
};
const options = { socket: { host: "127.0.0.1", port: Number(port), reconnectStrategy: false }, RESP: Number(protocol) };
const connect = async (more = {}) => {
  const client = createClient({ ...options, ...more });
  client.on("error", (error) => {
    console.error(error);
    process.exit(1);
  });
  return client.connect();
};

const client = await connect();
same(await client.ping(), "PONG");
await client.flushAll();

// Strings, over all shards.
same(await client.set("k", "v"), "OK");
same(await client.get("k"), "v");
same(await client.get("none"), null);
same(await client.mSet(Array.from({ length: 100 }, (_, n) => [`m:${n}`, `${n}`])), "OK");
same(await client.mGet(Array.from({ length: 100 }, (_, n) => `m:${n}`)), Array.from({ length: 100 }, (_, n) => `${n}`));
same(await client.incr("n"), 1);
same(await client.exists(["k", "n", "none"]), 2);
same(await client.del(["k", "n", "none"]), 2);
same(await client.dbSize(), 100);

// Hashes, lists, sets, sorted sets, streams.
same(await client.hSet("h", { a: "1", b: "2" }), 2);
same(await client.hGetAll("h"), { a: "1", b: "2" });
same(await client.rPush("l", ["1", "2", "3"]), 3);
same(await client.lRange("l", 0, -1), ["1", "2", "3"]);
same(await client.sAdd("s", ["1", "2"]), 2);
same((await client.sMembers("s")).sort(), ["1", "2"]);
same(await client.zAdd("z", [{ score: 1, value: "a" }, { score: 2.5, value: "b" }]), 2);
same(await client.zRangeWithScores("z", 0, -1), [{ value: "a", score: 1 }, { value: "b", score: 2.5 }]);
same(await client.xAdd("x", "1-1", { f: "v" }), "1-1");
same(await client.xRange("x", "-", "+"), [{ id: "1-1", message: { f: "v" } }]);
await assert.rejects(client.incr("l"), /WRONGTYPE/);
await assert.rejects(client.sendCommand(["NO-SUCH-COMMAND"]), /unknown command/);

// Many at once go out as one pipeline; a transaction on one shard.
const many = Array.from({ length: 500 }, (_, n) => n);
same(await Promise.all(many.map((n) => client.set(`p:${n}`, `${n}`))), many.map(() => "OK"));
same(await Promise.all(many.map((n) => client.get(`p:${n}`))), many.map(String));
same(await client.multi().set("{t}a", "1").incr("{t}a").get("{t}a").exec(), ["OK", 2, "2"]);
same(await client.multi().set("{t}p", "1").get("{t}p").execAsPipeline(), ["OK", "1"]);
const other = await connect();
await client.watch("{t}a");
await other.set("{t}a", "changed");
await assert.rejects(client.multi().set("{t}a", "4").exec(), WatchError);

// Scanning.
const scanned = [];
for await (const keys of client.scanIterator({ MATCH: "p:*", COUNT: 37 })) scanned.push(...keys);
same([...new Set(scanned)].sort(), many.map((n) => `p:${n}`).sort());

// Publish and subscribe.
const subscriber = await connect();
const message = new Promise((resolve) => subscriber.subscribe("news", (text, channel) => resolve([channel, text])).then(() => client.publish("news", "hello")));
same(await message, ["news", "hello"]);
const patterned = new Promise((resolve) => subscriber.pSubscribe("pat*", (text, channel) => resolve([channel, text])).then(() => client.publish("pattern", "hi")));
same(await patterned, ["pattern", "hi"]);
await subscriber.unsubscribe();
await subscriber.pUnsubscribe();
subscriber.destroy();

// Scripts, on each shard.
for (let n = 0; n < 20; n += 1) same(await client.eval("return KEYS[1]", { keys: [`k${n}`] }), `k${n}`);
const sha = await client.scriptLoad("return ARGV[1]");
for (let n = 0; n < 20; n += 1) same(await client.evalSha(sha, { keys: [`k${n}`], arguments: [`${n}`] }), `${n}`);

// Blocking, on a connection of its own.
const waiting = other.blPop("queue", 10);
await client.rPush("queue", "job");
same(await waiting, { key: "queue", element: "job" });
same(await other.blPop("queue", 0.1), null);

// The connection itself.
const named = await connect({ name: "me", database: 3 });
same(await named.clientGetName(), "me");
same(await named.set("in", "three"), "OK");
same([await client.get("in"), await named.get("in")], [null, "three"]);
same((await client.clientList()).length >= 3, true);
same((await client.info()).includes("redis_version"), true);

// A pool.
const pool = createClientPool(options, { minimum: 1, maximum: 5 });
await pool.connect();
same(await Promise.all(many.map(async (n) => (await pool.set(`pool:${n}`, `${n}`)) && pool.get(`pool:${n}`))), many.map(String));
await pool.close();

await client.flushAll();
same(await client.dbSize(), 0);
await Promise.all([client, other, named].map((one) => one.close()));
console.log(`node-redis ${version}, RESP${protocol}: checks ${checks}`);

# redis-rb: pipelines, transactions, scripts, scanning, publish and subscribe, a pool of threads.
require 'redis'
require 'connection_pool'

port = Integer(ENV.fetch('REDIS_PORT'))
$checks = 0
def check(got, wanted)
  $checks += 1
  abort "check #{$checks}: got #{got.inspect}, wanted #{wanted.inspect}" unless got == wanted
end

redis = Redis.new(port: port)
check redis.mapped_mset((0...100).to_h { |n| ["rb:#{n}", n] }), 'OK'
check redis.mapped_mget(*(0...100).map { |n| "rb:#{n}" }).values, (0...100).map(&:to_s)
check redis.pipelined { |p| 50.times { |n| p.incr("rb:#{n}") } }, (1..50).to_a
check redis.multi { |m| m.set('rb:a', 1); m.incr('rb:a'); m.set('rb:b', 2); m.get('rb:b') }, ['OK', 2, 'OK', '2']
got = redis.watch('rb:a') do
  Redis.new(port: port).set('rb:a', 'changed')
  redis.multi { |m| m.set('rb:a', 3) }
end
check got, nil
sha = redis.script(:load, "return redis.call('GET', KEYS[1])")
check (60...80).map { |n| redis.evalsha(sha, keys: ["rb:#{n}"]) }, (60...80).map(&:to_s)
check redis.scan_each(match: 'rb:*').to_a.uniq.size, 102
heard = Queue.new
listener = Thread.new do
  Redis.new(port: port).subscribe('rb:news') do |on|
    on.subscribe { heard << :ready }
    on.message { |channel, text| heard << [channel, text]; Thread.exit }
  end
end
check heard.pop, :ready
check redis.publish('rb:news', 'hello'), 1
check heard.pop, ['rb:news', 'hello']
listener.join
pool = ConnectionPool.new(size: 5) { Redis.new(port: port) }
threads = 10.times.map { Thread.new { 100.times { pool.with { |r| r.incr('rb:pool') } } } }
threads.each(&:join)
check redis.get('rb:pool'), '1000'
check redis.blpop(%w[rb:l1 rb:l2], timeout: 1), nil
puts "ruby libraries: checks #{$checks}"

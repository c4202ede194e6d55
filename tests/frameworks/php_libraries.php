<?php
// phpredis: the client, and PHP's own sessions kept in Redis.
$port = (int) getenv('REDIS_PORT');
$checks = 0;
function check($got, $wanted): void
{
    global $checks;
    $checks++;
    if ($got !== $wanted) {
        fwrite(STDERR, "check $checks: got " . var_export($got, true) . ', wanted ' . var_export($wanted, true) . "\n");
        exit(1);
    }
}

$redis = new Redis();
$redis->connect('127.0.0.1', $port);
check($redis->mSet(array_combine(array_map(fn($n) => "php:$n", range(0, 99)), range(0, 99))), true);
check($redis->mGet(array_map(fn($n) => "php:$n", range(0, 99))), array_map('strval', range(0, 99)));
check($redis->multi()->set('php:a', 1)->incr('php:a')->set('php:b', 2)->get('php:b')->exec(), [true, 2, true, '2']);
check($redis->pipeline()->incr('php:x')->incr('php:y')->incr('php:x')->exec(), [1, 1, 2]);
$redis->watch('php:a');
(function () use ($port) {
    $other = new Redis();
    $other->connect('127.0.0.1', $port);
    $other->set('php:a', 'changed');
})();
check($redis->multi()->set('php:a', 3)->exec(), false);
check($redis->eval("return redis.call('GET', KEYS[1])", ['php:7'], 1), '7');
$redis->setOption(Redis::OPT_SCAN, Redis::SCAN_RETRY);
$cursor = null;
$found = [];
while (($keys = $redis->scan($cursor, 'php:*', 50)) !== false) {
    array_push($found, ...$keys);
}
check(count(array_unique($found)), 104);
check($redis->sAddArray('php:s1', ['a', 'b']), 2);
check($redis->sAddArray('php:s2', ['b', 'c']), 2);
check($redis->sInter('php:s1', 'php:s2'), ['b']);
check($redis->blPop(['php:l1', 'php:l2'], 1), []);
check($redis->select(3) && $redis->set('php:db', 'three') && $redis->get('php:db') === 'three', true);
check($redis->select(0) && $redis->exists('php:db') === 0, true);

ini_set('session.save_handler', 'redis');
ini_set('session.save_path', "tcp://127.0.0.1:$port?prefix=php:sess:");
ini_set('session.use_cookies', '0');
ini_set('session.cache_limiter', '');
ini_set('redis.session.locking_enabled', '1');
for ($visitor = 0; $visitor < 10; $visitor++) {
    foreach ([1, 2] as $views) {
        session_id("visitor$visitor");
        session_start();
        $_SESSION['views'] = ($_SESSION['views'] ?? 0) + 1;
        check($_SESSION['views'], $views);
        session_write_close();
    }
}
fwrite(STDERR, "php libraries: checks $checks\n");

//! The promise about what happens at the same time: clients move things between shards, wait for
//! them, and vanish at any moment, and shards die under them; nothing is lost, nothing is there
//! twice, and whoever stays is answered.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, reason = "a test may panic and print")]

#[path = "histories/actor.rs"]
mod actor;
#[path = "histories/ledger.rs"]
mod ledger;
#[path = "histories/own.rs"]
mod own;
mod support;
#[path = "histories/world.rs"]
mod world;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use actor::Actor;
use support::{Over, Proxy, Random, Redis, Value, interval, poll, shards, until};
use world::World;

const CLIENTS: usize = 16;
const TURNS: usize = 1_000;
/// How often a shard dies under them at least.
const DEATHS_MIN: usize = 3;

/// Sixteen clients do `turns` things each.
fn play(world: &World<'_>, turns: usize, random: &mut Random) {
    std::thread::scope(|scope| {
        for _ in 0..CLIENTS {
            let random = random.fork();
            scope.spawn(move || {
                let mut actor = Actor::new(world, random);
                (0..turns).for_each(|_| actor.turn());
            });
        }
    });
}

/// The kinds of operations over several shards that concern others too; those of a client's own keys are
/// [`own::KINDS`]. Each has to be seen.
const KINDS: &[&str] = &["transfer", "BLPOP", "BRPOP", "BLMPOP"];

#[test]
fn clients_that_come_and_go_lose_and_double_nothing() {
    let shards = shards(3);
    let proxy = Proxy::over(&shards).threads(2).start();
    let world = World::new(&proxy, false);
    play(&world, TURNS, &mut Random::of_this_run("histories"));
    println!("{}", world.counts());
    let done = |kind: &str| world.count(kind);
    for kind in KINDS.iter().chain(own::KINDS) {
        assert!(done(kind) > 0, "{kind} was never done");
    }
    assert!(world.operations() >= 10_000);
    assert!(done("vanished with a pop under way") >= 100);
    assert!(done("vanished") >= 100);
    assert!(done("SHARDPARTIAL") * 20 <= done("RENAMENX"), "too often both names are left");
    world.judge(&shards);
}

/// The shard that holds a third of everything dies and comes back, again and again, with all that it
/// acknowledged: whoever asks it meanwhile gets an error that is defined, and in time.
#[test]
fn a_shard_that_dies_under_them_costs_nothing_that_was_acknowledged() {
    let mut shards: Vec<Redis> = (0..3).map(|_| Redis::durable()).collect();
    let options = Proxy::over(&shards).threads(2).timeout("request", "2s");
    let proxy = options.expect_log("backend").expect_log("shard").start();
    let world = World::new(&proxy, true);
    let mut listener = proxy.client();
    assert_eq!(listener.call(&["SUBSCRIBE", "news"]).elements()[2], Value::Int(1));
    let (over, deaths) = (AtomicBool::new(false), AtomicUsize::new(0));
    let mut random = Random::of_this_run("a shard that dies");
    std::thread::scope(|scope| {
        let shard = &mut shards[1];
        let (over, deaths) = (&over, &deaths);
        let killer = scope.spawn(move || {
            while !over.load(Ordering::Relaxed) {
                interval(Duration::from_millis(700));
                shard.kill();
                interval(Duration::from_millis(300));
                shard.restart();
                deaths.fetch_add(1, Ordering::Relaxed);
            }
        });
        // Also when a client panics.
        let _ends = Over(over);
        play(&world, TURNS / 2, &mut random);
        // A busy machine may need longer to restart a server than its clients need for their turns.
        while deaths.load(Ordering::Relaxed) < DEATHS_MIN && !killer.is_finished() {
            play(&world, TURNS / 10, &mut random);
        }
    });
    println!("{} deaths\n{}", deaths.into_inner(), world.counts());
    assert!(world.count("SHARDDOWN") > 0 && world.count("SHARDLOST") > 0);
    until("all shards are back", || proxy.metric("ringway_backend_up") == 3.0);
    world.judge(&shards);
    // What was subscribed to is heard again, from every shard.
    let mut client = proxy.client();
    for keys in proxy.keys_by_shard(3, 1) {
        let heard = poll(support::PATIENCE, || {
            let script = "return redis.call('publish', 'news', KEYS[1])";
            (client.call(&["EVAL", script, "1", &keys[0]]) == Value::Int(1)).then_some(())
        });
        assert!(heard.is_some(), "nobody hears what is published where {} is", keys[0]);
        let heard = poll(support::PATIENCE, || (listener.reply().elements()[2] == Value::bulk(&keys[0])).then_some(()));
        assert!(heard.is_some());
    }
}

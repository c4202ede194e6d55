//! The promise about failures: a shard that dies, hangs or misbehaves hurts its own keys only, every
//! request is answered in its place and in time, and a late reply never lands in another's place.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, reason = "a test may panic and print")]

mod support;

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use support::{Answer, Client, Fake, Over, PATIENCE, Proxy, ProxyOptions, Redis, Value, interval, poll, shards, until};

const REQUEST_TIMEOUT: Duration = Duration::from_millis(500);
/// How long any request may take at most, by contract.
const ANSWERED_WITHIN: Duration = Duration::from_millis(1_500);
/// How soon a shard that is back must be used again.
const BACK_WITHIN: Duration = Duration::from_secs(1);

/// A proxy whose log may speak of lost shards.
fn over(shards: &[Redis]) -> ProxyOptions {
    expecting(Proxy::over(shards))
}

fn expecting(options: ProxyOptions) -> ProxyOptions {
    options.timeout("request", "500ms").expect_log("backend").expect_log("shard")
}

/// For each shard a few hundred keys that live on it, found by writing through the proxy and asking
/// the shards themselves.
fn keys_by_shard(proxy: &Proxy, shards: &[Redis]) -> Vec<Vec<String>> {
    let mut client = proxy.client();
    let keys = (0..300).map(|at| format!("key:{at}")).collect::<Vec<_>>();
    for key in &keys {
        assert_eq!(client.call(&["SET", key, key]), Value::ok());
    }
    let owned = |shard: &Redis| {
        let mut direct = shard.client();
        let here = keys.iter().filter(|key| direct.call(&["EXISTS", key]) == Value::Int(1));
        here.cloned().collect::<Vec<_>>()
    };
    let owned = shards.iter().map(owned).collect::<Vec<_>>();
    assert!(owned.iter().all(|keys| keys.len() > 20), "a shard has next to no keys");
    owned
}

/// An error about shard `at`, as contract: a known first word, the shard's name and its address.
fn names_shard(reply: &Value, words: &[&str], at: usize, address: std::net::SocketAddr) -> bool {
    let text = reply.text();
    let name = Proxy::shard_name(at);
    let is_word = |word: &str| word.trim_matches(|letter: char| !letter.is_ascii_alphanumeric()) == name;
    words.contains(&reply.error_word().as_str()) && text.split(' ').any(is_word) && text.contains(&address.to_string())
}

/// What several clients saw under load; each asks one request at a time and checks every reply.
#[derive(Default)]
struct Load {
    over: AtomicBool,
    /// Whether errors of the troubled shard are wrong.
    calm: AtomicBool,
    answered: AtomicU64,
    failed: AtomicU64,
    wrong: Mutex<Vec<String>>,
    slowest: Mutex<Duration>,
}

impl Load {
    /// Loads the proxy with `keys` until `over`; errors are only right for keys of shard `troubled`.
    fn run(&self, proxy: &Proxy, keys: &[Vec<String>], troubled: usize, address: std::net::SocketAddr) {
        let mut client = proxy.client().patience(ANSWERED_WITHIN * 4);
        let mut turn = 0;
        while !self.over.load(Ordering::Relaxed) {
            turn += 1;
            let shard = turn % keys.len();
            let key = &keys[shard][turn / keys.len() % keys[shard].len()];
            // Before the request: it may have been calm only for its second half.
            let calm = self.calm.load(Ordering::SeqCst);
            let asked = Instant::now();
            let reply = client.try_call(&["GET", key]);
            let took = asked.elapsed();
            self.answered.fetch_add(1, Ordering::Relaxed);
            let mut slowest = self.slowest.lock().unwrap();
            *slowest = took.max(*slowest);
            drop(slowest);
            let words = ["SHARDDOWN", "SHARDLOST", "SHARDTIMEOUT"];
            let fine = match &reply {
                Err(_) => false,
                Ok(reply) if reply.is_error() => {
                    self.failed.fetch_add(1, Ordering::Relaxed);
                    !calm && shard == troubled && names_shard(reply, &words, troubled, address)
                }
                // A shard that came back has lost its data.
                Ok(reply) => *reply == Value::bulk(key) || (shard == troubled && reply.is_null()),
            };
            if !fine || took > ANSWERED_WITHIN {
                let mut wrong = self.wrong.lock().unwrap();
                if wrong.len() < 20 {
                    wrong.push(format!("GET {key} of shard {shard}: {reply:?} after {took:?}, calm {calm}"));
                }
                if reply.is_err() {
                    return;
                }
            }
            interval(Duration::from_micros(200));
        }
    }

    fn report(&self, what: &str) {
        let (answered, failed) = (self.answered.load(Ordering::Relaxed), self.failed.load(Ordering::Relaxed));
        println!("{what}: answered {answered}, failed {failed}, slowest {:?}", self.slowest.lock().unwrap());
        let wrong = self.wrong.lock().unwrap();
        assert!(wrong.is_empty(), "{what}:\n{}", wrong.join("\n"));
        assert!(failed > 0, "{what}: nobody noticed");
    }
}

/// Loads `proxy` from four threads while `trouble` does its worst to shard 1.
fn under_load(proxy: &Proxy, shards: &mut [Redis], trouble: impl FnOnce(&mut Redis, &Load)) -> Load {
    let keys = keys_by_shard(proxy, shards);
    let address = shards[1].address();
    let load = Load::default();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| load.run(proxy, &keys, 1, address));
        }
        // Ends the load even when a check below panics.
        let _over = Over(&load.over);
        load.settle(300);
        trouble(&mut shards[1], &load);
        load.calm.store(true, Ordering::SeqCst);
        load.settle(600);
    });
    load
}

impl Load {
    /// Waits for some more answers.
    fn settle(&self, answers: u64) {
        let goal = self.answered.load(Ordering::Relaxed) + answers;
        until("answers under load", || {
            self.answered.load(Ordering::Relaxed) >= goal || !self.wrong.lock().unwrap().is_empty()
        });
    }

    fn settle_failures(&self, failures: u64) {
        let goal = self.failed.load(Ordering::Relaxed) + failures;
        until("failures under load", || {
            self.failed.load(Ordering::Relaxed) >= goal || !self.wrong.lock().unwrap().is_empty()
        });
    }
}

/// Waits until every worker of the proxy serves shard 1 again, and checks how long that took.
fn used_again(proxy: &Proxy, key: &str) {
    let back = Instant::now();
    let mut client = proxy.client();
    // The kernel chooses the worker that gets a client: only the metric speaks of all of them.
    let mut all = || proxy.metric("ringway_backend_up") == 3.0 && !client.call(&["EXISTS", key]).is_error();
    let served = poll(BACK_WITHIN * 5, || all().then(|| back.elapsed()));
    println!("used again after {served:?}");
    assert!(served.is_some_and(|time| time <= BACK_WITHIN), "used again only after {served:?}");
}

#[test]
fn a_killed_shard_fails_alone_and_is_used_again_at_once() {
    let mut shards = shards(3);
    for threads in [1, 2] {
        let proxy = over(&shards).threads(threads).start();
        let keys = keys_by_shard(&proxy, &shards);
        let load = under_load(&proxy, &mut shards, |shard, load| {
            for _ in 0..3 {
                shard.kill();
                load.settle_failures(40);
                shard.restart();
                used_again(&proxy, &keys[1][0]);
            }
        });
        load.report("killed and restarted three times");
    }
}

#[test]
fn a_paused_shard_times_out_and_its_late_replies_are_dropped() {
    let mut shards = shards(3);
    let proxy = over(&shards).start();
    let load = under_load(&proxy, &mut shards, |shard, load| {
        for _ in 0..2 {
            shard.pause();
            load.settle_failures(6);
            shard.resume();
            let mut client = proxy.client();
            until("the shard answers again", || !client.call(&["DBSIZE"]).is_error());
        }
    });
    load.report("paused and resumed twice");
}

/// One by one, from one connection: what goes to the paused shard gets SHARDTIMEOUT in its place,
/// everything else its answer; afterwards the connection is as good as new.
#[test]
fn a_pipeline_over_a_paused_shard_keeps_its_places() {
    let shards = shards(3);
    let proxy = over(&shards).start();
    let keys = keys_by_shard(&proxy, &shards);
    let mut client = proxy.client();
    shards[1].pause();
    let order = (0..60).map(|at| (at % 3, &keys[at % 3][at / 3])).collect::<Vec<_>>();
    let requests = order.iter().map(|(_, key)| vec![b"GET".to_vec(), key.as_bytes().to_vec()]).collect::<Vec<_>>();
    let asked = Instant::now();
    let replies = client.pipeline(&requests);
    let took = asked.elapsed();
    for ((shard, key), reply) in order.iter().zip(&replies) {
        if *shard == 1 {
            assert!(names_shard(reply, &["SHARDTIMEOUT"], 1, shards[1].address()), "{reply:?}");
        } else {
            assert_eq!(*reply, Value::bulk(key));
        }
    }
    assert!(took >= REQUEST_TIMEOUT / 2 && took <= ANSWERED_WITHIN, "{took:?}");
    // An error in one part is the answer to a split command, once.
    let both = client.call(&["MGET", &keys[0][0], &keys[1][0]]);
    assert!(names_shard(&both, &["SHARDTIMEOUT", "SHARDDOWN", "SHARDLOST"], 1, shards[1].address()), "{both:?}");
    shards[1].resume();
    let mut other = proxy.client();
    until("the shard answers again", || other.call(&["GET", &keys[1][0]]) == Value::bulk(&keys[1][0]));
    for (_, key) in order {
        assert_eq!(client.call(&["GET", key]), Value::bulk(key), "a late reply in another's place");
    }
    println!("replies in their places 120, slowest {took:?}");
}

#[test]
fn a_shard_that_is_away_closes_its_clients_where_no_error_is_wanted() {
    let mut shards = shards(3);
    let proxy = over(&shards).extra("[commands]\nshard_errors = \"close\"").start();
    let keys = keys_by_shard(&proxy, &shards);
    let get = |shard: usize| vec![b"GET".to_vec(), keys[shard][0].as_bytes().to_vec()];
    let cut_off = || {
        let mut client = proxy.client();
        client.send_raw(&[get(0), get(1), get(2)].iter().flat_map(|args| support::request(args)).collect::<Vec<_>>());
        assert_eq!(client.reply(), Value::bulk(&keys[0][0]), "what was asked before is answered");
        assert!(client.closed(), "what was asked behind is not");
    };
    let mut other = proxy.client();
    shards[1].pause();
    cut_off();
    shards[1].resume();
    shards[1].kill();
    cut_off();
    cut_off();
    // Who asks the others notices nothing.
    for shard in [0, 2] {
        assert_eq!(other.call(&get(shard)), Value::bulk(&keys[shard][0]));
    }
    shards[1].restart();
    until("the shard is used again", || proxy.metric("ringway_backend_up") == 3.0);
    assert_eq!(other.call(&get(1)), Value::NullBulk);
}

/// A proxy that stands still calls nobody late who answered meanwhile.
#[test]
fn a_proxy_that_was_held_up_gives_the_answers_that_came() {
    let shards = shards(3);
    let proxy = over(&shards).start();
    let keys = keys_by_shard(&proxy, &shards);
    let mut clients: Vec<Client> = (0..50).map(|_| proxy.client()).collect();
    for _ in 0..5 {
        shards[1].pause();
        clients.iter_mut().for_each(|client| client.send(&["GET", &keys[1][0]]));
        until("all is sent", || proxy.metric_of("ringway_backend_inflight", "backend=\"b\"") >= 50.0);
        proxy.signal("STOP");
        shards[1].resume();
        interval(REQUEST_TIMEOUT * 3);
        proxy.signal("CONT");
        for client in &mut clients {
            assert_eq!(client.reply(), Value::bulk(&keys[1][0]));
        }
    }
}

#[test]
fn a_proxy_that_starts_while_a_shard_is_down_serves_the_others() {
    let mut shards = shards(3);
    let keys = {
        let proxy = over(&shards).start();
        keys_by_shard(&proxy, &shards)
    };
    shards[1].kill();
    let proxy = over(&shards).start();
    let mut client = proxy.client();
    for shard in [0, 2] {
        for key in &keys[shard] {
            assert_eq!(client.call(&["GET", key]), Value::bulk(key));
        }
    }
    let reply = client.call(&["GET", &keys[1][0]]);
    assert!(names_shard(&reply, &["SHARDDOWN"], 1, shards[1].address()), "{reply:?}");
    let whole = client.call(&["DBSIZE"]);
    assert!(names_shard(&whole, &["SHARDDOWN"], 1, shards[1].address()), "never a partial result: {whole:?}");
    shards[1].restart();
    used_again(&proxy, &keys[1][0]);
    // While it is used, and not when it is lost the next time.
    proxy.until_logged("backend is connected again");
}

/// Client libraries ask for INFO before anything else: one shard must not lock them out of the others.
#[test]
fn what_tells_of_the_servers_tells_of_those_that_are_there() {
    let mut shards = shards(3);
    let proxy = over(&shards).start();
    let mut client = proxy.client().resp3();
    let state = |info: &str, name: &str| {
        let line =
            info.lines().find(|line| line.starts_with(&format!("shard_{name}:"))).unwrap_or_else(|| panic!("{info}"));
        line.split(',').find_map(|field| field.strip_prefix("state=").map(str::to_owned)).unwrap()
    };
    // The home shard last but one: whoever is there speaks for it.
    for (lost, left) in [(1, ["up", "down", "up"]), (0, ["down", "down", "up"])] {
        shards[lost].kill();
        until("it is known to be lost", || {
            proxy.metric("ringway_backend_up") as usize == left.iter().filter(|state| **state == "up").count()
        });
        let info = client.call(&["INFO"]).text();
        assert_eq!(["a", "b", "c"].map(|name| state(&info, name)), left, "{info}");
        assert!(info.contains("redis_version:") && info.contains("# Keyspace"), "{info}");
        assert!(client.call(&["INFO", "server"]).text().contains("redis_version:"));
        let said = client.call(&["CONFIG", "GET", "max*"]);
        assert_eq!(said.field("maxclients"), Some(&Value::bulk("10000")), "{said:?}");
        assert!(said.field("maxmemory").is_some(), "{said:?}");
        let refused = client.call(&["CONFIG", "SET", "maxmemory", "0"]);
        assert_eq!(refused.error_word(), "SHARDDOWN", "{refused:?}");
    }
    shards[2].kill();
    until("all are lost", || client.call(&["INFO"]).is_error());
    assert_eq!(client.call(&["CONFIG", "GET", "maxclients"]).error_word(), "SHARDDOWN");
}

/// The kernel accepts connections for a process that hangs: that is no sign of life.
#[test]
fn a_server_that_accepts_and_is_mute_is_down() {
    let shards = shards(3);
    shards[1].pause();
    let proxy = Proxy::over(&shards).timeout("connect", "1s").expect_log("backend").start();
    let key = (0..).map(|at| format!("key:{at}")).find(|key| proxy.place(key) == 1).unwrap();
    let mut client = proxy.client().resp3();
    let asked = Instant::now();
    let first = client.call(&["SET", &key, "x"]);
    assert!(names_shard(&first, &["SHARDDOWN"], 1, shards[1].address()), "{first:?}");
    println!("the first was refused after {:?}", asked.elapsed());
    assert!(asked.elapsed() < Duration::from_secs(3), "{:?}", asked.elapsed());
    // From then on nobody waits for it, at whatever point of an attempt: this takes longer than one.
    for _ in 0..100 {
        let asked = Instant::now();
        let reply = client.call(&["SET", &key, "x"]);
        assert!(names_shard(&reply, &["SHARDDOWN"], 1, shards[1].address()), "{reply:?}");
        assert!(reply.text().contains("was not executed"), "{reply:?}");
        assert!(asked.elapsed() < Duration::from_millis(700), "{:?}", asked.elapsed());
        interval(Duration::from_millis(20));
    }
    shards[1].resume();
    used_again(&proxy, &key);
    // This client's protocol has a connection of its own, with an attempt of its own to connect.
    let answered =
        poll(PATIENCE, || Some(client.call(&["GET", &key])).filter(|reply| reply.error_word() != "SHARDDOWN"));
    assert_eq!(answered, Some(Value::Null), "what was refused was executed");
}

#[test]
fn all_shards_down_is_an_answer_too() {
    let mut shards = shards(2);
    let proxy = over(&shards).start();
    shards.iter_mut().for_each(Redis::kill);
    let mut client = proxy.client();
    for at in 0..50 {
        let asked = Instant::now();
        let reply = client.call(&["SET", &format!("key:{at}"), "x"]);
        assert!(["SHARDDOWN", "SHARDLOST"].contains(&reply.error_word().as_str()), "{reply:?}");
        assert!(asked.elapsed() < ANSWERED_WITHIN);
    }
    assert_eq!(client.call(&["PING"]), Value::Simple(b"PONG".to_vec()));
}

/// A proxy over one good server (shard a) and one that answers `GET bad...` by `script`.
fn with_fake(script: impl Fn(&[Vec<u8>]) -> Answer + Send + Sync + 'static, check: impl FnOnce(&Proxy, &Fake, &Keys)) {
    let (good, behind) = (Redis::start(), Redis::start());
    let fake = Fake::before(&behind, script);
    let proxy = expecting(Proxy::over_addresses([good.address(), fake.address()])).start();
    let mut client = proxy.client();
    // A key's shard is found by the server that has it.
    let mut keys = Keys::default();
    let all = (0..100).map(|at| format!("key:{at}")).collect::<Vec<_>>();
    let set = |key: &String| vec![b"SET".to_vec(), key.clone().into_bytes(), key.clone().into_bytes()];
    // In one go: a fake that spoils the handshake leaves its keys unwritten, after one timeout.
    client.pipeline(&all.iter().map(set).collect::<Vec<_>>());
    let mut direct = good.client();
    for key in all {
        let is_good = direct.call(&["EXISTS", &key]) == Value::Int(1);
        if is_good { keys.good.push(key) } else { keys.fake.push(key) }
    }
    assert!(keys.good.len() > 5 && keys.fake.len() > 5);
    check(&proxy, &fake, &keys);
    for key in &keys.good {
        assert_eq!(client.call(&["GET", key]), Value::bulk(key), "the other shard is hurt");
    }
}

#[derive(Default)]
struct Keys {
    good: Vec<String>,
    fake: Vec<String>,
}

fn is_get(args: &[Vec<u8>]) -> bool {
    args[0].eq_ignore_ascii_case(b"get")
}

/// A pipeline over both shards in which the third GET to the fake meets the fault.
fn broken_in_the_middle(answer: impl Fn() -> Answer + Send + Sync + 'static, words: &'static [&'static str]) {
    let gets = AtomicU32::new(0);
    let script = move |args: &[Vec<u8>]| match is_get(args) && gets.fetch_add(1, Ordering::SeqCst) == 2 {
        true => answer(),
        false => Answer::Pass,
    };
    with_fake(script, |proxy, fake, keys| {
        let mut client = proxy.client();
        let order = keys.good.iter().zip(&keys.fake).take(6).flat_map(|(good, fake)| [good, fake]).collect::<Vec<_>>();
        let requests = order.iter().map(|key| vec![b"GET".to_vec(), key.as_bytes().to_vec()]).collect::<Vec<_>>();
        let asked = Instant::now();
        let replies = client.pipeline(&requests);
        assert!(asked.elapsed() <= ANSWERED_WITHIN, "{:?}", asked.elapsed());
        let mut failed = 0;
        for (key, reply) in order.iter().zip(&replies) {
            let right = *reply == Value::bulk(key);
            let named = names_shard(reply, words, 1, fake.address()) && keys.fake.contains(key);
            assert!(right || named, "GET {key}: {reply:?}");
            failed += usize::from(named);
        }
        println!("in places {}, failed {failed}", replies.len());
        assert!(failed >= 1);
        // Used again, and each reply is its own.
        let again = || {
            let client = &mut proxy.client();
            keys.fake.iter().all(|key| client.call(&["GET", key]) == Value::bulk(key))
        };
        let served = poll(ANSWERED_WITHIN + BACK_WITHIN, || again().then_some(()));
        assert!(served.is_some(), "the shard is not used again");
        for key in &keys.fake {
            assert_eq!(client.call(&["GET", key]), Value::bulk(key));
        }
    });
}

#[test]
fn a_shard_that_closes_in_the_middle_of_a_reply() {
    broken_in_the_middle(|| Answer::BytesThenClose(b"$50\r\nhalf a rep".to_vec()), &["SHARDLOST", "SHARDDOWN"]);
}

#[test]
fn a_shard_that_closes_without_a_reply() {
    broken_in_the_middle(|| Answer::BytesThenClose(Vec::new()), &["SHARDLOST", "SHARDDOWN"]);
}

#[test]
fn a_shard_that_sends_garbage() {
    broken_in_the_middle(|| Answer::Bytes(b"what is this?\r\n".to_vec()), &["SHARDLOST", "SHARDDOWN"]);
}

#[test]
fn a_shard_that_sends_a_bulk_without_its_end() {
    broken_in_the_middle(|| Answer::Bytes(b"$3\r\nabcdefgh\r\n".to_vec()), &["SHARDLOST", "SHARDDOWN"]);
}

#[test]
fn a_shard_that_sends_an_impossible_length() {
    broken_in_the_middle(|| Answer::Bytes(b"$99999999999999999999\r\n".to_vec()), &["SHARDLOST", "SHARDDOWN"]);
    broken_in_the_middle(|| Answer::Bytes(b"*-7\r\n".to_vec()), &["SHARDLOST", "SHARDDOWN"]);
}

/// A reply too many can only be seen when nothing is waited for; then the connection is given up
/// before it spoils the next request.
#[test]
fn a_shard_that_sends_a_reply_too_many() {
    let script = |args: &[Vec<u8>]| match args.get(1).map(Vec::as_slice) {
        Some(b"extra") => Answer::PassThenBytes(b"$7\r\nforeign\r\n".to_vec()),
        _ => Answer::Pass,
    };
    with_fake(script, |proxy, _, keys| {
        let mut client = proxy.client();
        let _ = client.call(&["SET", "extra", "extra"]);
        let _ = client.call(&["GET", "extra"]);
        let spoiled = poll(BACK_WITHIN, || {
            let reply = client.call(&["GET", &keys.fake[0]]);
            assert_ne!(reply, Value::bulk("foreign"), "a foreign reply in a request's place");
            (reply == Value::bulk(&keys.fake[0])).then_some(())
        });
        assert!(spoiled.is_some(), "the shard is not used again");
        for key in &keys.fake {
            assert_eq!(client.call(&["GET", key]), Value::bulk(key));
        }
    });
}

#[test]
fn a_shard_that_answers_nothing_at_all() {
    with_fake(|_| Answer::Silence, refused_in_time);
}

#[test]
fn a_shard_that_answers_hello_with_an_error() {
    let script = |_: &[Vec<u8>]| Answer::Bytes(b"-NOAUTH Authentication required.\r\n".to_vec());
    with_fake(script, |proxy, fake, keys| {
        let mut client = proxy.client();
        for key in keys.fake.iter().take(5) {
            let reply = client.call(&["GET", key]);
            let named = names_shard(&reply, &["SHARDDOWN", "SHARDLOST"], 1, fake.address());
            assert!(named || reply.error_word() == "NOAUTH", "{reply:?}");
        }
    });
}

/// Every request to the fake gets an error about it, in time.
fn refused_in_time(proxy: &Proxy, fake: &Fake, keys: &Keys) {
    let mut client = proxy.client();
    for key in keys.fake.iter().take(3) {
        let asked = Instant::now();
        let reply = client.call(&["GET", key]);
        let words = ["SHARDDOWN", "SHARDLOST", "SHARDTIMEOUT"];
        assert!(names_shard(&reply, &words, 1, fake.address()), "{reply:?}");
        assert!(asked.elapsed() <= ANSWERED_WITHIN, "{:?}", asked.elapsed());
    }
}

/// A client that goes away in the middle of its own requests hurts nobody.
#[test]
fn clients_that_leave_early_take_nothing_with_them() {
    let shards = shards(3);
    let proxy = over(&shards).start();
    let keys = keys_by_shard(&proxy, &shards);
    let mut client = proxy.client();
    for round in 0..200 {
        let mut leaving = Client::connect(proxy.address());
        let many = keys[round % 3].iter().flat_map(|key| support::request(&["GET", key])).collect::<Vec<_>>();
        leaving.send_raw(&many);
        drop(leaving);
        let key = &keys[round % 3][0];
        assert_eq!(client.call(&["GET", key]), Value::bulk(key));
    }
}

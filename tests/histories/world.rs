//! What all clients share: accounts, queues, families of names; what they did, and the judgement.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::ledger::{self, Move, Write};
use crate::support::{Client, PATIENCE, Proxy, Redis, Value, interval, poll};

pub(crate) const STAKE: i64 = 1_000;
const ACCOUNTS: usize = 12;
const FAMILIES: usize = 4;
/// Keys of the clients' own, of which one set is used up whenever its state is not known any more.
pub(crate) const OWN: usize = 3;
const POOL: usize = 4_000;

pub(crate) struct World<'a> {
    pub(crate) proxy: &'a Proxy,
    /// A shard dies now and then.
    pub(crate) troubled: bool,
    pub(crate) accounts: Vec<String>,
    /// What transfers whose end is not known may have made or lost.
    pub(crate) doubt: AtomicI64,
    pub(crate) queues: Vec<String>,
    /// What was pushed, and whether that was acknowledged.
    pub(crate) pushed: Mutex<Vec<(String, bool)>>,
    pub(crate) delivered: Mutex<Vec<String>>,
    /// Elements that pops whose end is not known may have taken.
    pub(crate) swallowed: AtomicUsize,
    families: Mutex<Vec<Arc<Family>>>,
    retired: Mutex<Vec<Arc<Family>>>,
    /// Keys by shard that nobody has used.
    pool: Vec<Vec<String>>,
    next: AtomicUsize,
    actors: AtomicUsize,
    counts: Mutex<BTreeMap<String, usize>>,
    start: Instant,
}

/// Two names on two shards.
pub(crate) struct Family {
    pub(crate) source: String,
    pub(crate) target: String,
    pub(crate) writes: Mutex<Vec<Write>>,
    /// Moves are made one at a time; None once the last one's end is not known.
    pub(crate) moves: Mutex<Moves>,
}

#[derive(Default)]
pub(crate) struct Moves {
    pub(crate) list: Vec<Move>,
    pub(crate) closed: bool,
}

impl<'a> World<'a> {
    pub(crate) fn new(proxy: &'a Proxy, troubled: bool) -> Self {
        let pool = proxy.keys_by_shard(3, POOL);
        let mut world = Self {
            proxy,
            troubled,
            accounts: Vec::new(),
            doubt: AtomicI64::new(0),
            queues: Vec::new(),
            pushed: Mutex::default(),
            delivered: Mutex::default(),
            swallowed: AtomicUsize::new(0),
            families: Mutex::default(),
            retired: Mutex::default(),
            pool,
            next: AtomicUsize::new(0),
            actors: AtomicUsize::new(0),
            counts: Mutex::default(),
            start: Instant::now(),
        };
        world.accounts = world.keys(ACCOUNTS / 3).concat();
        world.queues = world.keys(2).concat();
        for at in 0..FAMILIES {
            let family = world.family_new(at);
            world.families.lock().unwrap().push(family);
        }
        let mut client = proxy.client();
        for account in &world.accounts {
            assert_eq!(client.call(&["SET", account, &STAKE.to_string()]), Value::ok());
        }
        world
    }

    /// For each shard `n` keys that nobody has used.
    pub(crate) fn keys(&self, n: usize) -> Vec<Vec<String>> {
        let first = self.next.fetch_add(n, Ordering::Relaxed);
        assert!(first + n <= POOL, "no keys are left");
        self.pool.iter().map(|keys| keys[first..first + n].to_vec()).collect()
    }

    fn family_new(&self, at: usize) -> Arc<Family> {
        let keys = self.keys(1).concat();
        let (source, target) = (keys[at % 3].clone(), keys[(at + 1) % 3].clone());
        Arc::new(Family { source, target, writes: Mutex::default(), moves: Mutex::default() })
    }

    pub(crate) fn family(&self, at: usize) -> Arc<Family> {
        let families = self.families.lock().unwrap();
        Arc::clone(&families[at % families.len()])
    }

    /// Nobody knows what its names are: it is left alone, and another takes its place.
    pub(crate) fn retire(&self, family: &Arc<Family>, judged: bool) {
        let mut families = self.families.lock().unwrap();
        if let Some(at) = families.iter().position(|one| Arc::ptr_eq(one, family)) {
            let new = self.family_new(self.next.load(Ordering::Relaxed));
            let old = std::mem::replace(&mut families[at], new);
            if judged {
                self.retired.lock().unwrap().push(old);
            }
        }
    }

    /// The number of one more actor, which names its elements.
    pub(crate) fn actor(&self) -> usize {
        self.actors.fetch_add(1, Ordering::Relaxed)
    }

    pub(crate) fn now(&self) -> u128 {
        self.start.elapsed().as_micros()
    }

    pub(crate) fn did(&self, what: &str) {
        *self.counts.lock().unwrap().entry(what.to_owned()).or_default() += 1;
    }

    pub(crate) fn count(&self, what: &str) -> usize {
        self.counts.lock().unwrap().get(what).copied().unwrap_or(0)
    }

    pub(crate) fn operations(&self) -> usize {
        self.counts.lock().unwrap().values().sum()
    }

    pub(crate) fn counts(&self) -> String {
        let counts = self.counts.lock().unwrap();
        counts.iter().map(|(what, count)| format!("{what}: {count}")).collect::<Vec<_>>().join(", ")
    }

    /// Once nobody is at work any more: what there is, against what was done.
    pub(crate) fn judge(&self, shards: &[Redis]) {
        let mut client = self.proxy.client();
        self.await_quiet(&mut client);
        self.judge_accounts(&mut client);
        self.judge_queues(&mut client);
        for family in self.families.lock().unwrap().iter().chain(self.retired.lock().unwrap().iter()) {
            let list = |client: &mut Client, key: &str| {
                let list = client.call(&["LRANGE", key, "0", "-1"]);
                list.elements().iter().map(Value::text).collect::<Vec<_>>()
            };
            let (source, target) = (list(&mut client, &family.source), list(&mut client, &family.target));
            let (writes, moves) = (family.writes.lock().unwrap(), family.moves.lock().unwrap());
            if let Err(why) = ledger::judge(&writes, &moves.list, &source, &target) {
                let (from, to) = (&family.source, &family.target);
                panic!("{from} -> {to}: {why}\n{:#?}", moves.list);
            }
        }
        for shard in shards {
            let left = shard.client().call(&["KEYS", "__ringway:*"]);
            assert_eq!(left, Value::Array(Vec::new()), "temporary keys are left");
        }
    }

    /// What vanished clients asked for has ended: nobody waits, and nothing changes any more.
    fn await_quiet(&self, client: &mut Client) {
        let mut last = String::new();
        let quiet = poll(PATIENCE, || {
            interval(Duration::from_millis(300));
            let keys = [&["MGET".to_owned()], self.accounts.as_slice()].concat();
            let now = format!("{:?} {:?}", client.call(&keys), client.call(&["DBSIZE"]));
            let list = client.call(&["INFO", "clients"]).text();
            let same = now == last && list.contains("blocked_clients:0\r\n");
            last = now;
            same.then_some(())
        });
        assert!(quiet.is_some(), "it never comes to rest");
    }

    fn judge_accounts(&self, client: &mut Client) {
        let keys = [&["MGET".to_owned()], self.accounts.as_slice()].concat();
        let total: i64 = client.call(&keys).elements().iter().map(|value| value.text().parse::<i64>().unwrap()).sum();
        let (wanted, doubt) = (STAKE * self.accounts.len() as i64, self.doubt.load(Ordering::Relaxed));
        println!("accounts hold {total} of {wanted}, in doubt {doubt}");
        assert!((total - wanted).abs() <= doubt, "accounts hold {total} of {wanted}, in doubt are {doubt}");
        assert!(self.troubled || doubt == 0);
    }

    fn judge_queues(&self, client: &mut Client) {
        for queue in &self.queues {
            loop {
                let rest = client.call(&["LPOP", queue, "1000"]);
                if rest.is_null() {
                    break;
                }
                self.delivered.lock().unwrap().extend(rest.elements().iter().map(Value::text));
            }
        }
        let (pushed, delivered) = (self.pushed.lock().unwrap(), self.delivered.lock().unwrap());
        let lost = lost(&pushed, &delivered).unwrap();
        let swallowed = self.swallowed.load(Ordering::Relaxed);
        println!("{} pushed, {} delivered, {} lost, swallowed {swallowed}", pushed.len(), delivered.len(), lost.len());
        assert!(lost.len() <= swallowed, "lost: {lost:?}");
        assert!(self.troubled || swallowed == 0);
    }
}

/// What was acknowledged and never delivered.
///
/// # Errors
/// Something was delivered twice, or never pushed.
pub(crate) fn lost(pushed: &[(String, bool)], delivered: &[String]) -> Result<Vec<String>, String> {
    let mut times: BTreeMap<&str, usize> = pushed.iter().map(|(element, _)| (element.as_str(), 0)).collect();
    for element in delivered {
        *times.get_mut(element.as_str()).ok_or_else(|| format!("{element} was never pushed"))? += 1;
    }
    if let Some((element, count)) = times.iter().find(|(_, count)| **count > 1) {
        return Err(format!("{element} was delivered {count} times"));
    }
    let missing = pushed.iter().filter(|(element, acknowledged)| *acknowledged && times[element.as_str()] == 0);
    Ok(missing.map(|(element, _)| element.clone()).collect())
}

#[test]
fn lost_and_doubled_elements_are_noticed() {
    let pushed: Vec<(String, bool)> = (0..9).map(|at| (format!("e{at}"), at < 8)).collect();
    let all: Vec<String> = (0..8).map(|at| format!("e{at}")).collect();
    assert_eq!(lost(&pushed, &all), Ok(Vec::new()));
    assert_eq!(lost(&pushed, &all[1..]), Ok(vec!["e0".to_owned()]));
    assert!(lost(&pushed, &[&all[..], &all[3..4]].concat()).unwrap_err().contains("e3 was delivered 2 times"));
    assert!(lost(&pushed, &["x".to_owned()]).unwrap_err().contains("x was never pushed"));
}

//! The promise about money: what clients move between shards in transactions is conserved, whoever
//! vanishes in the middle.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, reason = "a test may panic and print")]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use support::{Answer, Fake, Proxy, Random, check, poll, request, say, shards};

const ACCOUNTS: usize = 12;
const STAKE: i64 = 1000;

/// Clients move amounts between accounts on all shards and vanish at random; what there is in the end.
fn transfers(
    proxy: &Proxy,
    accounts: &[String],
    clients: usize,
    rounds: usize,
    random: &mut Random,
) -> (usize, usize, usize) {
    let (moved, gone, lost) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for number in 0..clients {
            let mut random = random.fork();
            let (moved, gone, lost) = (&moved, &gone, &lost);
            scope.spawn(move || {
                let connect = || if number % 2 == 0 { proxy.client() } else { proxy.client().resp3() };
                let mut client = connect();
                for _ in 0..rounds {
                    let (from, to) = (random.pick(accounts), random.pick(accounts));
                    let amount = random.between(1, 50).to_string();
                    let mut lines: Vec<Vec<&str>> = Vec::new();
                    if random.one_in(3) {
                        lines.push(vec!["WATCH", from]);
                        lines.push(vec!["GET", from]);
                    }
                    lines.push(vec!["MULTI"]);
                    lines.push(vec!["DECRBY", from, &amount]);
                    lines.push(vec!["INCRBY", to, &amount]);
                    lines.push(vec!["EXEC"]);
                    let bytes = lines.iter().flat_map(|line| request(line)).collect::<Vec<_>>();
                    if random.one_in(4) {
                        // It goes in the middle of its words, or of the answer.
                        let sent = if random.one_in(2) { bytes.len() } else { random.below(bytes.len()) };
                        client.send_raw(&bytes[..sent]);
                        if sent == bytes.len() {
                            (0..random.below(lines.len())).for_each(|_| _ = client.try_reply());
                        }
                        gone.fetch_add(1, Ordering::Relaxed);
                        client = connect();
                        continue;
                    }
                    client.send_raw(&bytes);
                    let replies = client.replies(lines.len());
                    let done = replies.last().unwrap();
                    assert!(!done.is_error(), "{done:?}");
                    if done.is_null() { lost } else { moved }.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    });
    (moved.into_inner(), gone.into_inner(), lost.into_inner())
}

fn total(proxy: &Proxy, accounts: &[String]) -> i64 {
    let mut client = proxy.client();
    let words = [vec!["MGET".to_owned()], accounts.to_vec()].concat();
    client.call(&words).elements().iter().map(|value| value.text().parse::<i64>().unwrap()).sum()
}

/// Whether all that there was is there, once nobody is at work any more.
fn is_conserved(proxy: &Proxy, accounts: &[String], patience: Duration) -> bool {
    let wanted = STAKE * accounts.len() as i64;
    poll(patience, || (total(proxy, accounts) == wanted).then_some(())).is_some()
}

fn endow(proxy: &Proxy) -> Vec<String> {
    let accounts = proxy.keys_by_shard(3, ACCOUNTS / 3).concat();
    let mut client = proxy.client();
    accounts.iter().for_each(|account| check(&mut client, &format!("SET {account} {STAKE}"), "+\"OK\""));
    accounts
}

#[test]
fn transfers_between_shards_lose_nothing_when_clients_vanish() {
    let shards = shards(3);
    let mut random = Random::of_this_run("transfers");
    for (threads, max) in [(1, 32), (1, 2), (2, 4)] {
        let extra = format!("[limits]\ntransaction_leases_max = {max}");
        let proxy = Proxy::over(&shards).threads(threads).extra(&extra).start();
        let accounts = endow(&proxy);
        let (moved, gone, lost) = transfers(&proxy, &accounts, 16, 60, &mut random);
        println!(
            "{threads} workers, {max} leases: transfers {moved}, clients gone in the middle {gone}, races lost {lost}"
        );
        assert!(moved > 300 && gone > 50, "transfers {moved}, gone {gone}");
        assert!(is_conserved(&proxy, &accounts, support::PATIENCE), "{} are left", total(&proxy, &accounts));
        // What all clients share, in two protocols; the reserve; what watches.
        let connections = proxy.metric("ringway_backend_connections") as usize;
        let most = 3 * threads * (2 + max + 16);
        assert!(connections <= most, "{connections} connections for {threads} workers with {max} leases");
    }
}

/// The checker is worth something: a server that says it ran a transaction and did not is noticed.
#[test]
fn a_lost_half_of_a_transfer_is_noticed() {
    let servers = shards(3);
    let planted = Arc::new(AtomicBool::new(false));
    let (seen, done) = (AtomicUsize::new(0), Arc::clone(&planted));
    let fake = Fake::before(&servers[1], move |args| {
        let third = args[0] == b"EXEC" && seen.fetch_add(1, Ordering::Relaxed) == 2;
        if third {
            done.store(true, Ordering::Relaxed);
            return Answer::BytesThenClose(b"*1\r\n:5\r\n".to_vec());
        }
        Answer::Pass
    });
    let proxy = Proxy::over_addresses([servers[0].address(), fake.address(), servers[2].address()]).start();
    let accounts = endow(&proxy);
    let mut client = proxy.client();
    for round in 0..6 {
        let (from, to) = (&accounts[round % 4], &accounts[4 + round % 4]);
        for line in ["MULTI", &format!("DECRBY {from} 5"), &format!("INCRBY {to} 5"), "EXEC"] {
            say(&mut client, line);
        }
    }
    assert!(planted.load(Ordering::Relaxed));
    assert!(!is_conserved(&proxy, &accounts, Duration::from_millis(500)), "nobody noticed");
}

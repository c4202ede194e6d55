//! The promise of advice: the same workload runs without refusals once the printed rules are pasted,
//! whether it was watched over several shards or before the only server.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, reason = "a test may panic and print")]

mod support;

use std::process::Command;

use support::{Client, Proxy, ProxyOptions, Redis, poll};

/// An app's day: queues, scripts, locks, indexes. Each line is a request; `#` numbers the round.
const DAY: &[&str] = &[
    "RPUSH bull:q#:wait a b",
    "RPOPLPUSH bull:q#:wait bull:q#:active",
    "LMOVE bull:q#:active bull:q#:done LEFT RIGHT",
    "EVAL return(redis.call('SET',KEYS[1],1)) 3 bull:q#:meta bull:q#:events bull:q#:1#",
    "BLMOVE jobs:high jobs:low LEFT RIGHT 0.01",
    "MSETNX user:#:cart 1 user:#:seen 2",
    "SADD tags:# x y",
    "SINTER tags:# tags:popular",
    "SUNIONSTORE result tags:# tags:popular",
    "WATCH account:# balance:#",
    "UNWATCH",
    "WATCH stock:#",
    "WATCH price:#",
    "MULTI",
    "SMOVE tags:# tags:gone y",
    "EXEC",
    "RENAME result result:old",
    "COPY config config:backup",
    "EVAL return(1) 2 lock limits",
    "XREADGROUP GROUP g c STREAMS s:1 s:2 > >",
    "MGET user:1:cart tags:unused counter:#",
    "BLPOP list:a list:b 0.01",
];

/// Runs it; the refusals.
fn run(client: &mut Client) -> Vec<String> {
    let mut refused = Vec::new();
    for round in 0..6 {
        for line in DAY {
            let line = line.replace('#', &round.to_string());
            let reply = client.call(&line.split(' ').collect::<Vec<_>>());
            let text = format!("{reply:?}");
            if text.contains("CROSSSLOT") || text.contains("EXECABORT") {
                refused.push(format!("{line}: {text}"));
            } else {
                let expected = ["NOGROUP", "no such key"].iter().any(|word| text.contains(word));
                assert!(!reply.is_error() || expected, "{line}: {text}");
            }
        }
    }
    client.call(&["FLUSHALL"]);
    refused
}

fn ringway(args: &[&str]) -> (bool, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_ringway")).args(args).output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(text).unwrap())
}

/// What `ringway advise` prints of the proxy, once it knows of as many requests as there were.
fn advice(proxy: &Proxy, counted: &str) -> String {
    let address = format!("http://{}", proxy.admin());
    let text = poll(support::PATIENCE, || {
        let (fine, text) = ringway(&["advise", &address]);
        assert!(fine, "{text}");
        text.contains(counted).then_some(text)
    });
    text.unwrap_or_else(|| panic!("never {counted:?}: {}", ringway(&["advise", &address]).1))
}

fn over(servers: &[Redis], rules: &str) -> ProxyOptions {
    Proxy::over(servers).extra(rules)
}

/// The rules alone, to compare.
fn patterns(advice: &str) -> Vec<&str> {
    let lines = advice.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    lines.filter_map(|line| line.strip_prefix("pattern = ")).collect()
}

#[test]
fn what_is_pasted_ends_the_refusals() {
    let servers = support::shards(3);
    let bare = over(&servers, "").start();
    let refused = run(&mut bare.client());
    assert!(refused.len() > 30, "{refused:#?}");
    assert!(refused.iter().all(|line| !line.contains("CROSSSLOT") || line.contains("or add [")), "{refused:#?}");
    let counted = bare.metric_of("ringway_cross_shard_total", "kind=\"refused\"");
    let seen = advice(&bare, &format!(" {counted} refused, "));

    let single = over(&servers[..1], "").start();
    assert_eq!(run(&mut single.client()), Vec::<String>::new());
    let foreseen = advice(&single, " 54 to be refused, 24 gathered.");
    let (few, all) = (patterns(&seen), patterns(&foreseen));
    // Those that happen to be on one shard are not refused there.
    assert!(few.len() <= all.len() && !few.is_empty(), "{few:?}\n{all:?}");
    for pattern in [
        "\"bull:{*}:*\"",
        "\"user:{*}:*\"",
        "\"balance:{*}\"",
        "\"account:{*}\"",
        "\"tags:*\"",
        "\"config:backup\"",
        "\"jobs:*\"",
    ] {
        assert!(all.contains(&pattern), "{pattern}\n{foreseen}");
    }

    for (name, rules) in [("over three", seen), ("before one", foreseen)] {
        let ruled = over(&servers, &rules).start();
        assert_eq!(run(&mut ruled.client()), Vec::<String>::new(), "{name}:\n{rules}");
        for kind in ["kind=\"refused\"", "kind=\"gathered\""] {
            let left = ruled.metric_of("ringway_cross_shard_total", kind);
            assert_eq!(left, 0.0, "{name}, {kind}:\n{}", advice(&ruled, "#"));
        }
        advice(&ruled, "# No request was refused or gathered");
    }
}

#[test]
fn every_worker_and_every_page_tells_the_same() {
    let servers = support::shards(3);
    let proxy = over(&servers, "[[user]]\nname = \"default\"\npassword = \"pw\"\n").threads(2).start();
    // The acceptor gives each worker one of them.
    let mut clients = [proxy.client(), proxy.client()];
    for client in &mut clients {
        assert!(!client.call(&["AUTH", "pw"]).is_error());
        assert_eq!(client.call(&["LMOVE", "<q>:a", "<q>:b", "LEFT", "LEFT"]).error_word(), "CROSSSLOT");
    }
    let wanted = "\n# 2 x <q>:a with <q>:b (LMOVE 2)\n[[colocate]]\npattern = \"<q>:*\"\n";
    let printed = advice(&proxy, wanted);
    for client in &mut clients {
        assert_eq!(client.call(&["RINGWAY", "ADVISE"]).text(), printed);
    }
    let place = format!("redis://default:pw@{}", proxy.address());
    assert_eq!(ringway(&["advise", &place]), (true, printed.clone()));
    let status: serde_json::Value =
        serde_json::from_str(proxy.page("/status").split_once("\r\n\r\n").unwrap().1).unwrap();
    assert_eq!(status["advice"]["refused"], 2);
    assert_eq!(status["advice"]["rules"], serde_json::json!([{ "pattern": "<q>:*", "shard": null }]));
    assert_eq!(status["advice"]["text"], printed);
    assert!(proxy.page("/").contains("[[colocate]]\npattern = &quot;&lt;q&gt;:*&quot;\n"));
    // What goes wrong is said in a line.
    let (fine, text) = ringway(&["advise", &format!("redis://{}", proxy.address())]);
    assert!(!fine && text.contains("NOAUTH") && text.lines().count() == 1, "{text}");
    let (fine, text) = ringway(&["advise", &format!("http://{}", proxy.address())]);
    let wanted = "this is no admin port; where clients connect, ask redis://HOST:PORT";
    assert!(!fine && text.contains(wanted) && text.lines().count() == 1, "{text}");
    let (fine, text) = ringway(&["advise", &format!("redis://{}", proxy.admin())]);
    let wanted = "this is no port for clients; the admin port is asked with http://HOST:PORT";
    assert!(!fine && text.contains(wanted) && text.lines().count() == 1, "{text}");
    let (fine, text) = ringway(&["advise", "http://127.0.0.1:1"]);
    assert!(!fine && text.contains("http://127.0.0.1:1/advise: Connection refused"), "{text}");
    let config = proxy.config();
    let (fine, text) = ringway(&["advise", "-c", config.to_str().unwrap()]);
    assert!(!fine && text.contains("the kernel chose the port of 127.0.0.1:0"), "{text}");
}

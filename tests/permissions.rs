//! The promise about servers with users: what the README says that a backend's user needs is enough.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, reason = "a test may panic and print")]

mod support;

use support::{Proxy, Redis, Value, check, say, until};

/// The words of ACL SETUSER in the README's row, in their order.
fn readme() -> Vec<String> {
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")).unwrap();
    let row = text.lines().find(|line| line.starts_with("| An ACL user needs ")).unwrap();
    let spans = row.split('`').skip(1).step_by(2);
    spans.flat_map(|span| span.split(' ').map(str::to_owned)).collect()
}

/// What only the clients' own commands need.
const OWN: &[&str] = &[
    "+get",
    "+set",
    "+sadd",
    "+sinter",
    "+sunionstore",
    "+pfadd",
    "+pfcount",
    "+copy",
    "+rename",
    "+renamenx",
    "+rpush",
    "+blpop",
    "+zadd",
    "+bzpopmin",
    "+xadd",
    "+xread",
    "+publish",
    "+subscribe",
    "+eval",
    "+evalsha",
    "+client|tracking",
];

#[test]
fn a_backends_user_needs_what_the_readme_says() {
    let shards = support::shards(2);
    for shard in &shards {
        let words = readme();
        let rules = ["reset", "on", ">pw", "~app:*", "&app:*"].into_iter();
        let rules = rules.chain(words.iter().map(String::as_str)).chain(OWN.iter().copied());
        let words: Vec<&str> = ["ACL", "SETUSER", "app"].into_iter().chain(rules).collect();
        assert_eq!(shard.client().call(&words), Value::ok());
    }
    let backend = |(at, shard): (usize, &Redis)| {
        let (name, address) = (Proxy::shard_name(at), shard.address());
        format!("[[backend]]\nname = \"{name}\"\naddress = \"{address}\"\nusername = \"app\"\npassword = \"pw\"\n")
    };
    let proxy = Proxy::over(&[]).extra(&shards.iter().enumerate().map(backend).collect::<String>()).start();
    let key =
        |shard: usize, at: usize| (0..).map(|n| format!("app:{at}:{n}")).find(|key| proxy.place(key) == shard).unwrap();
    let (a, b, target) = (key(0, 1), key(1, 1), key(1, 2));
    let mut client = proxy.client();

    check(&mut client, "SELECT 1", "+\"OK\"");
    check(&mut client, "SELECT 0", "+\"OK\"");
    for key in [&a, &b] {
        check(&mut client, &format!("SADD {key} x"), ":1");
    }
    check(&mut client, &format!("SINTER {a} {b}"), "*[$\"x\"]");
    check(&mut client, &format!("SUNIONSTORE {target} {a} {b}"), ":1");
    check(&mut client, &format!("COPY {a} {target} REPLACE"), ":1");
    check(&mut client, &format!("RENAME {a} {target}"), "+\"OK\"");
    check(&mut client, &format!("RENAMENX {target} {a}"), ":1");
    say(&mut client, "MULTI");
    say(&mut client, &format!("SADD {a} y"));
    say(&mut client, &format!("SADD {b} y"));
    check(&mut client, "EXEC", "*[:1, :1]");
    check(&mut client, &format!("EVAL return(7) 1 {a}"), ":7");
    check(&mut client, &format!("EVALSHA {} 1 {b}", sha(&shards)), ":7");

    // Blocking over both, with something there and without.
    let (list, other) = (key(0, 3), key(1, 3));
    say(&mut client, &format!("RPUSH {other} v"));
    check(&mut client, &format!("BLPOP {list} {other} 1"), &format!("*[$\"{other}\", $\"v\"]"));
    blocked(&proxy, &["BLPOP", &list, &other, "0"], &["RPUSH", &other, "v"]);
    blocked(&proxy, &["BZPOPMIN", &list, &other, "0"], &["ZADD", &other, "1", "v"]);
    blocked(&proxy, &["XREAD", "BLOCK", "0", "STREAMS", &list, &other, "$", "$"], &["XADD", &other, "*", "f", "v"]);

    let mut subscriber = proxy.client();
    assert_eq!(subscriber.call(&["SUBSCRIBE", "app:c"]).elements().len(), 3);
    check(&mut client, "PUBLISH app:c x", ":1");
    assert_eq!(subscriber.reply().elements().len(), 3);

    // Caches at clients, told on the connection itself and on another.
    let mut cache = proxy.client().resp3();
    check(&mut cache, "CLIENT TRACKING ON", "+\"OK\"");
    let plain = key(0, 4);
    say(&mut cache, &format!("GET {plain}"));
    let mut told = proxy.client();
    let id = told.call(&["CLIENT", "ID"]).int().to_string();
    assert_eq!(told.call(&["SUBSCRIBE", "__redis__:invalidate"]).elements().len(), 3);
    let mut second = proxy.client();
    assert_eq!(second.call(&["CLIENT", "TRACKING", "ON", "REDIRECT", &id]), Value::ok());
    say(&mut second, &format!("GET {plain}"));
    say(&mut client, &format!("SET {plain} v"));
    assert_eq!(told.reply().elements().len(), 3);

    for shard in &shards {
        let log = shard.client().call(&["ACL", "LOG"]);
        assert_eq!(log.elements().len(), 0, "{log:?}");
    }
}

#[test]
fn who_may_not_take_copies_away_makes_none() {
    let shards = support::shards(2);
    let proxy = Proxy::over(&shards).start();
    let keys = proxy.keys_by_shard(2, 2);
    let (a, b, target) = (&keys[0][0], &keys[1][0], &keys[1][1]);
    let mut client = proxy.client();
    for key in [a, b] {
        check(&mut client, &format!("SADD {key} x"), ":1");
    }
    for shard in &shards {
        assert_eq!(say(&mut shard.client(), "ACL SETUSER default -unlink"), Value::ok());
    }
    for line in [format!("SINTER {a} {b}"), format!("SUNIONSTORE {target} {a} {b}"), format!("COPY {a} {target}")] {
        check(&mut client, &line, "-\"NOPERM this user has no permissions to run the \\'unlink\\' command\"");
    }
    for shard in &shards {
        assert_eq!(say(&mut shard.client(), "DBSIZE"), Value::Int(1));
    }
}

/// The digest of the script that EVAL brought to the first shard alone.
fn sha(shards: &[Redis]) -> String {
    shards[0].client().call(&["SCRIPT", "LOAD", "return(7)"]).text()
}

/// A client that waits until another gives it something.
fn blocked(proxy: &Proxy, wait: &[&str], give: &[&str]) {
    let mut waiting = proxy.client();
    waiting.send(wait);
    until("it waits", || proxy.metric("ringway_clients_blocked") >= 1.0);
    assert!(!proxy.client().call(give).is_error());
    assert!(!waiting.reply().is_error());
}

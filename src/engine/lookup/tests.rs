//! Names that the table does not know, driven by bytes alone.

use std::collections::HashMap;

use super::super::local::tests::{Bench, apart, options};
use super::super::{Fault, Options};
use crate::topology::ShardId;

const UNKNOWN: &str = "-ERR unknown command 'foo', with args beginning with: 'x' \r\n";

fn info(name: &str, flags: &str, range: Option<(i64, i64)>) -> String {
    let count = flags.split_whitespace().count();
    let flags: String = flags.split_whitespace().map(|flag| format!("+{flag}\r\n")).collect();
    let (first, last) = range.unwrap_or_default();
    let spec = format!(
        "*1\r\n*6\r\n$5\r\nflags\r\n*0\r\n$12\r\nbegin_search\r\n*4\r\n$4\r\ntype\r\n$5\r\nindex\r\n$4\r\nspec\r\n*2\r\n\
         $5\r\nindex\r\n:{first}\r\n$9\r\nfind_keys\r\n*4\r\n$4\r\ntype\r\n$5\r\nrange\r\n$4\r\nspec\r\n*6\r\n$7\r\n\
         lastkey\r\n:{last}\r\n$7\r\nkeystep\r\n:1\r\n$5\r\nlimit\r\n:0\r\n"
    );
    let specs = if range.is_some() { spec } else { "*0\r\n".to_owned() };
    format!(
        "*1\r\n*10\r\n${}\r\n{name}\r\n:-2\r\n*{count}\r\n{flags}:{first}\r\n:0\r\n:1\r\n*0\r\n*0\r\n{specs}*0\r\n",
        name.len()
    )
}

#[test]
fn unknown_names_are_looked_up_once() {
    let mut bench = Bench::new(options());
    let (one, two) = (bench.client(), bench.client());
    assert_eq!(bench.ask(one, "foo x"), "");
    assert_eq!(bench.ask(one, "PING"), "", "in order");
    assert_eq!(bench.ask(two, "FOO \"a\\xff\\r\\n\""), "");
    bench.serve("COMMAND INFO foo", "*1\r\n*-1\r\n");
    assert_eq!(bench.got(one), format!("{UNKNOWN}+PONG\r\n"));
    assert_eq!(bench.got(two), "-ERR unknown command 'FOO', with args beginning with: 'a\u{ff}  ' \r\n");
    assert_eq!(bench.ask(one, "foo x"), UNKNOWN, "it is remembered");
    bench.pass(59_000);
    assert_eq!(bench.ask(one, "foo x"), UNKNOWN);
    bench.pass(1_000);
    assert_eq!(bench.ask(one, "foo x"), "", "for a minute");
    bench.serve("COMMAND INFO foo", "*1\r\n$-1\r\n");
    assert_eq!(bench.got(one), UNKNOWN);

    // Nothing that could not be a name is asked for.
    let long = "x".repeat(200);
    assert_eq!(
        bench.ask(one, &format!("{long} a")),
        format!("-ERR unknown command '{}', with args beginning with: 'a' \r\n", &long[..128])
    );
    assert_eq!(
        bench.ask(one, "\"FOO\\x00a\" \"b\\x00c\""),
        "-ERR unknown command 'FOO', with args beginning with: 'b' \r\n"
    );
    let many = "a".repeat(124);
    assert_eq!(
        bench.ask(one, &format!("foo {many} bbb c")),
        format!("-ERR unknown command 'foo', with args beginning with: '{many}' 'b' \r\n")
    );
}

#[test]
fn unknown_subcommands_are_looked_up_too() {
    let mut bench = Bench::new(options());
    let client = bench.client();
    assert_eq!(
        bench.ask(client, "CLIENT \"Nosuch\\xff\""),
        "-ERR unknown subcommand 'Nosuch\u{ff}'. Try CLIENT HELP.\r\n"
    );
    assert_eq!(bench.ask(client, "CLIENT Nosuch"), "");
    bench.serve("COMMAND INFO client|nosuch", "*1\r\n*-1\r\n");
    assert_eq!(bench.got(client), "-ERR unknown subcommand 'Nosuch'. Try CLIENT HELP.\r\n");
}

#[test]
fn what_the_servers_know_goes_where_its_keys_are() {
    let mut bench = Bench::new(options());
    let client = bench.client();
    bench.say(client, "bf.add k1 x");
    bench.serve("COMMAND INFO bf.add", &info("bf.add", "write denyoom", Some((1, 0))));
    let conn = bench.serve("bf.add k1 x", ":1\r\n");
    assert_eq!(bench.conns[&conn], bench.engine.topology().shard_of(b"k1"));
    assert_eq!(bench.got(client), ":1\r\n");
    assert_eq!(bench.ask(client, "BF.ADD"), "-ERR wrong number of arguments for 'bf.add' command\r\n");

    let (one, two) = apart(&bench, |n| (format!("x:{n}"), format!("y:{n}")));
    bench.say(client, &format!("cms.merge {one} {two}"));
    bench.serve("COMMAND INFO cms.merge", &info("cms.merge", "write", Some((1, -1))));
    assert!(bench.got(client).starts_with("-CROSSSLOT"));
    assert!(bench.ask(client, "RINGWAY ADVISE").contains("(CMS.MERGE 1)"));

    // In a transaction it is queued, in order, and the pause for writes holds it.
    assert_eq!(bench.ask(client, "MULTI"), "+OK\r\n");
    assert_eq!(bench.ask(client, "bf.add k1 y"), "+QUEUED\r\n");
    bench.say(client, "EXEC");
    bench.serve("MULTI bf.add k1 y EXEC", "+OK\r\n+QUEUED\r\n*1\r\n:1\r\n");
    assert_eq!(bench.got(client), "*1\r\n:1\r\n");
    assert_eq!(bench.ask(client, "CLIENT PAUSE 10 WRITE"), "+OK\r\n");
    assert_eq!(bench.ask(client, "bf.add k1 z"), "");
    bench.pass(10);
    bench.serve("bf.add k1 z", ":0\r\n");
    assert_eq!(bench.got(client), ":0\r\n");
}

#[test]
fn what_names_no_key_needs_a_word_of_the_configuration() {
    let hint = "-ERR 'ft.search' names no key, and one shard's answer could be partial: an admin sends it with RINGWAY \
                SHARD <name> FT.SEARCH, or [commands] keyless names the shard that answers it\r\n";
    let mut bench = Bench::new(options());
    let client = bench.client();
    bench.say(client, "FT.SEARCH idx *");
    bench.serve("COMMAND INFO ft.search", &info("ft.search", "readonly", None));
    assert_eq!(bench.got(client), hint);
    bench.say(client, "tricky a b");
    bench.serve("COMMAND INFO tricky", &info("tricky", "write movablekeys", None));
    assert!(bench.got(client).starts_with("-ERR 'tricky' does not say where its keys are"));

    let keyless = HashMap::from([("ft.search".to_owned(), ShardId(1))]);
    let mut bench = Bench::new(Options { keyless, ..options() });
    let client = bench.client();
    bench.say(client, "FT.SEARCH idx *");
    bench.serve("COMMAND INFO ft.search", &info("ft.search", "readonly", None));
    let (conn, asked) = bench.asked();
    assert_eq!((bench.conns[&conn], asked.split(' ').next()), (ShardId(1), Some("FT.SEARCH")));
}

#[test]
fn nobody_knows_while_the_home_shard_is_down() {
    let mut bench = Bench::without(options(), &[0]);
    let client = bench.client();
    assert_eq!(
        bench.ask(client, "foo x"),
        "-SHARDDOWN shard a (10.0.0.1:7001) is not connected: connection refused; the command was not executed\r\n"
    );
    // It goes away while it is asked.
    let mut bench = Bench::new(options());
    let client = bench.client();
    bench.say(client, "foo x");
    let (conn, _) = bench.asked();
    bench.engine.conn_lost(conn, Fault::Lost, "reset");
    bench.settle();
    let said = bench.got(client);
    assert!(said.starts_with("-SHARDDOWN shard a") && said.ends_with("the command was not executed\r\n"), "{said}");
    // It does not answer.
    let mut bench = Bench::new(options());
    let client = bench.client();
    bench.say(client, "foo x");
    bench.asked();
    bench.pass(5_000);
    assert!(bench.got(client).starts_with("-SHARDDOWN shard a"));
    // It has an error of its own.
    bench.pass(1_000);
    bench.say(client, "bar x");
    bench.asked();
    let conn = *bench.conns.iter().find(|(_, shard)| shard.0 == 0).expect("home").0;
    bench.engine.conn_bytes(conn, b"*1\r\n*-1\r\n-LOADING Redis is loading the dataset in memory\r\n");
    bench.settle();
    assert_eq!(bench.got(client), "-LOADING Redis is loading the dataset in memory\r\n");
}

#[test]
fn an_unknown_request_is_a_request() {
    let mut bench = Bench::new(options());
    let client = bench.client();
    assert_eq!(bench.ask(client, "CLIENT REPLY SKIP"), "");
    assert_eq!(bench.ask(client, "foo x"), "");
    bench.serve("COMMAND INFO foo", "*1\r\n*-1\r\n");
    assert_eq!(bench.got(client), "", "its error is skipped");
    assert_eq!(bench.ask(client, "foo x"), UNKNOWN);
    assert_eq!(bench.ask(client, "MULTI"), "+OK\r\n");
    assert_eq!(bench.ask(client, "foo x"), UNKNOWN);
    assert_eq!(bench.ask(client, "EXEC"), "-EXECABORT Transaction discarded because of previous errors.\r\n");
}

#[test]
fn the_table_of_names_is_bounded() {
    let mut bench = Bench::new(options());
    let client = bench.client();
    for n in 0..300 {
        bench.say(client, &format!("foo{n}"));
        bench.serve(&format!("COMMAND INFO foo{n}"), "*1\r\n*-1\r\n");
        assert!(bench.got(client).starts_with("-ERR unknown command"));
        bench.pass(1);
    }
    assert!(bench.ask(client, "foo299").starts_with("-ERR unknown command"));
    assert_eq!(bench.ask(client, "foo0"), "", "the oldest ones are forgotten");
    // A flood of names that are all being asked for is answered without asking.
    let mut bench = Bench::new(options());
    for n in 0..256 {
        let client = bench.client();
        bench.say(client, &format!("foo{n}"));
        assert_eq!(bench.got(client), "");
    }
    let client = bench.client();
    assert!(bench.ask(client, "foo256").starts_with("-ERR unknown command"));
}

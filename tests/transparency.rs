//! The promise of transparency: what a plain Redis answers, Ringway over three shards answers, to
//! the byte, in RESP2 and RESP3. The cases stand in `transparency/*.txt`; what differs on purpose
//! stands in [`EXCEPTIONS`], with its reason, and nowhere else.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, reason = "a test may panic and print")]

#[path = "transparency/cases.rs"]
mod cases;
#[path = "transparency/run.rs"]
mod run;
mod support;
#[path = "transparency/values.rs"]
mod values;

use std::collections::{BTreeMap, HashMap};

use cases::{Case, Step, parse};
use run::{Protocol, Target};
use support::{Proxy, Redis, shards};

/// Cases whose answers differ from a plain server's, by their whole line, and why.
const EXCEPTIONS: &[(&str, &str)] = &[
    ("FAILOVER ABORT", "refused: replication belongs to the shards' owner"),
    ("SHUTDOWN BOGUS", "refused: no client may end a shard"),
    ("REPLCONF x", "refused: replication links do not pass through a proxy"),
    ("SWAPDB 0 1", "refused: not atomic over shards"),
    ("REPLICAOF no one", "refused: replication belongs to the shards' owner"),
    ("DEBUG SLEEP 0", "refused: speaks of one process"),
    ("MONITOR", "refused without an admin: it shows everybody's data"),
    ("MIGRATE 127.0.0.1 1 none 0 10", "refused: keys are moved by the proxy, never beside it"),
    ("CONFIG REWRITE", "refused: shards' files belong to their owner"),
    ("MODULE LIST", "refused: modules belong to the shards' owner"),
    ("ACL DELUSER x", "refused: users are the proxy's own"),
    ("ACL LIST ; ACL USERS ; ACL GETUSER default ; ACL DRYRUN default GET k", "refused: users are the proxy's own"),
    ("ACL LOG RESET ; ACL LOG", "refused: users are the proxy's own"),
    ("PFSELFTEST", "refused: occupies a shard for everybody"),
    ("SCRIPT DEBUG BOGUS ; SCRIPT DEBUG NO", "refused: a debugging session would hold everybody's connection"),
];

const EXCEPTIONS_MAX: usize = 24;

#[test]
fn every_command_answers_as_a_plain_redis_in_resp2() {
    behind_ringway(Protocol::Resp2);
}

#[test]
fn every_command_answers_as_a_plain_redis_in_resp3() {
    behind_ringway(Protocol::Resp3);
}

/// What differs between two plain servers is the suite's own mistake.
#[test]
fn the_suite_finds_nothing_between_two_plain_servers() {
    for protocol in [Protocol::Resp2, Protocol::Resp3] {
        let (one, two) = (Redis::start(), Redis::start());
        let all = all_cases(&one);
        let differing =
            compare(&all, &mut Target::new(one.address(), protocol), &mut Target::new(two.address(), protocol));
        assert!(differing.is_empty(), "{} differ:\n{}", differing.len(), report(&differing));
    }
}

/// A suite that finds nothing proves nothing: a server with another configuration must show.
#[test]
fn the_suite_sees_a_server_that_differs() {
    let (one, two) = (Redis::start(), Redis::start_with(&["--databases", "8", "--list-max-listpack-size", "1"]));
    let all = parse("SELECT 15\nCONFIG GET databases\nSET k v ; GET k\nMULTI ; SELECT 9 ; EXEC\n");
    let mut targets = [one, two].map(|redis| (Target::new(redis.address(), Protocol::Resp2), redis));
    let [(one, _), (two, _)] = &mut targets;
    let differing = compare(&all, one, two);
    assert_eq!(differing.keys().collect::<Vec<_>>(), ["CONFIG GET databases", "MULTI ; SELECT 9 ; EXEC", "SELECT 15"]);
}

/// Every command of the server is used: with a key at least once well and once wrongly, without one
/// at least once.
#[test]
fn no_command_is_left_out() {
    let redis = Redis::start();
    let known = commands(&redis);
    let mut target = Target::new(redis.address(), Protocol::Resp2);
    let mut silent = Vec::new();
    let mut uses = HashMap::<String, (u32, u32)>::new();
    for case in all_cases(&redis) {
        for (line, step) in target.run(&case).iter().zip(&case.steps) {
            if line.answer.contains("<no reply>") {
                silent.push(format!("{}: {}", case.text, line.step));
            }
            let (good, wrong) = uses.entry(name_of(step, &known)).or_default();
            if line.is_error {
                *wrong += 1;
            } else {
                *good += u32::from(case.by_hand);
            }
        }
    }
    assert!(silent.is_empty(), "waits for what never comes: {silent:#?}");
    let is_missing = |(name, command): &(&String, &Known)| {
        let (good, wrong) = uses.get(*name).copied().unwrap_or_default();
        let never_wrong = command.arity == -1;
        if command.has_keys { good == 0 || (wrong == 0 && !never_wrong) } else { good + wrong == 0 }
    };
    let missing = known.iter().filter(is_missing).map(|(name, _)| (name, uses.get(name))).collect::<Vec<_>>();
    println!("commands and subcommands {}, without a case {}", known.len(), missing.len());
    assert!(missing.is_empty(), "without a case (good, wrong): {missing:?}");
}

fn behind_ringway(protocol: Protocol) {
    let plain = Redis::start();
    let shards = shards(3);
    let proxy = Proxy::over(&shards).start();
    let all = all_cases(&plain);
    let differing =
        compare(&all, &mut Target::new(plain.address(), protocol), &mut Target::new(proxy.address(), protocol));
    let excused = |line: &str| EXCEPTIONS.iter().any(|(case, _)| *case == line);
    for (case, reason) in EXCEPTIONS {
        assert!(all.iter().any(|one| one.text == *case), "an exception without a case: {case}");
        println!("exception: {case}: {reason}");
    }
    println!("cases {}, compared {}, exceptions {}", all.len(), all.len() - EXCEPTIONS.len(), EXCEPTIONS.len());
    assert!(EXCEPTIONS.len() <= EXCEPTIONS_MAX);
    let wrong = differing.into_iter().filter(|(case, _)| !excused(case)).collect::<BTreeMap<_, _>>();
    assert!(wrong.is_empty(), "{} of {} cases differ in {protocol:?}:\n{}", wrong.len(), all.len(), report(&wrong));
}

/// The steps that differ, by case.
fn compare(all: &[Case], plain: &mut Target, other: &mut Target) -> BTreeMap<String, String> {
    let mut differing = BTreeMap::new();
    for case in all {
        let (wanted, got) = (plain.run(case), other.run(case));
        let steps = wanted.iter().zip(&got).filter(|(wanted, got)| wanted.answer != got.answer);
        let shown = steps.map(|(wanted, got)| {
            format!("    {}\n      plain: {}\n      other: {}\n", wanted.step, wanted.answer, got.answer)
        });
        let shown = shown.collect::<String>();
        if !shown.is_empty() {
            differing.insert(case.text.clone(), shown);
        }
    }
    differing
}

fn report(differing: &BTreeMap<String, String>) -> String {
    differing.iter().map(|(case, steps)| format!("  {case}\n{steps}")).collect()
}

/// A command or subcommand as the server's COMMAND tells it.
struct Known {
    arity: i64,
    has_keys: bool,
}

fn commands(redis: &Redis) -> BTreeMap<String, Known> {
    let mut known = BTreeMap::new();
    let mut rest = redis.client().call(&["COMMAND"]).elements().to_vec();
    while let Some(command) = rest.pop() {
        let fields = command.elements();
        let movable = fields[2].elements().iter().any(|flag| flag.bytes() == b"movablekeys");
        let has_keys = fields[3].int() != 0 || movable;
        known.insert(fields[0].text(), Known { arity: fields[1].int(), has_keys });
        rest.extend_from_slice(fields[9].elements());
    }
    known
}

/// The table's name of what a step sends: `get`, `config|get`.
fn name_of(step: &Step, known: &BTreeMap<String, Known>) -> String {
    let word =
        |at: usize| step.words.get(at).map(|word| String::from_utf8_lossy(word).to_lowercase()).unwrap_or_default();
    let long = format!("{}|{}", word(0), word(1));
    if known.contains_key(&long) { long } else { word(0) }
}

/// The written cases, and one per command with too few and, where there is a limit, one with too
/// many arguments.
fn all_cases(redis: &Redis) -> Vec<Case> {
    let files = [
        include_str!("transparency/strings.txt"),
        include_str!("transparency/keys.txt"),
        include_str!("transparency/lists.txt"),
        include_str!("transparency/blocking.txt"),
        include_str!("transparency/sets.txt"),
        include_str!("transparency/hashes.txt"),
        include_str!("transparency/sessions.txt"),
        include_str!("transparency/connection.txt"),
        include_str!("transparency/server.txt"),
        include_str!("transparency/refused.txt"),
    ];
    let mut all = files.into_iter().flat_map(parse).collect::<Vec<_>>();
    for (name, command) in commands(redis) {
        let words = name.replace('|', " ");
        let least = words.split(' ').count();
        let wanted = usize::try_from(command.arity.abs()).unwrap();
        let mut counts = vec![];
        if wanted > least {
            counts.push(wanted - 1 - least);
        }
        if command.arity > 0 {
            counts.push(wanted + 1 - least);
        }
        for extra in counts {
            let text = format!("{words}{}", " {t}x".repeat(extra));
            all.extend(parse(&text).into_iter().map(|case| Case { by_hand: false, ..case }));
        }
    }
    let mut seen = std::collections::HashSet::new();
    all.retain(|case| seen.insert(case.text.clone()));
    all
}

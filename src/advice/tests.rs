//! Workloads in pairs of keys, and the rules that they come to: always such that they keep the pairs
//! together.

use proptest::prelude::*;

use super::*;
use crate::topology::{Endpoint, Kind, Shard, Spec};

fn map(rules: &[Colocate]) -> Topology {
    let shard = |name: &str| Shard {
        name: name.to_owned(),
        endpoint: Endpoint::Tcp { host: "127.0.0.1".to_owned(), port: 1 },
        weight: 1,
    };
    let shards = vec![shard("a"), shard("b"), shard("c")];
    Topology::build(&Spec { shards, home: None, kind: Kind::Slots, colocate: rules.to_vec() }, 1).expect("a topology")
}

fn rule(text: &str) -> Colocate {
    match text.split_once('@') {
        Some((pattern, shard)) => Colocate { pattern: pattern.to_owned(), shard: Some(shard.to_owned()) },
        None => Colocate { pattern: text.to_owned(), shard: None },
    }
}

fn presets() -> Vec<Preset> {
    vec![
        Preset::new("rq", vec![rule("rq:*")]).expect("patterns"),
        Preset::new("sidekiq", vec![rule("queue:*@home"), rule("queues@home")]).expect("patterns"),
    ]
}

/// Requests with these keys, a line each, over shards with the rules `before`, come to `expected`.
#[track_caller]
fn workload(before: &str, requests: &[&str], expected: &str) {
    let old: Vec<Colocate> = before.split_whitespace().map(rule).collect();
    let mut tally = Tally::default();
    for line in requests {
        let keys: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
        tally.count(&keys, b"eval", Outcome::Refused);
    }
    let report = tally.report(&map(&old), &presets());
    let said = |rule: &Colocate| match &rule.shard {
        Some(shard) => format!("{}@{shard}", rule.pattern),
        None => rule.pattern.clone(),
    };
    let rules: Vec<String> = report.rules.iter().map(said).collect();
    assert_eq!(rules.join(" "), expected, "{}", report.text);
    let new = map(&report.rules.iter().chain(&old).cloned().collect::<Vec<_>>());
    for line in requests.iter().filter(|_| !report.text.contains("hash tag")) {
        let mut keys = line.split(' ').map(|key| new.locate(key.as_bytes()));
        let first = keys.next().expect("a key");
        for key in keys {
            assert!(key.tag == first.tag || key.slot.is_none(), "{line}: {key:?} {first:?}\n{}", report.text);
            assert_eq!(key.shard, first.shard, "{line}\n{}", report.text);
        }
    }
}

#[test]
fn one_pair_gets_the_narrowest_rule() {
    workload("", &["user:17:cart user:17:seen"], "user:{*}:*");
    workload("", &["cart:17 seen:17"], "cart:{*} seen:{*}");
    workload("", &["a:x:17:b 17:c"], "a:x:{*}:* {*}:c");
    workload("", &["app:queues app:jobs"], "app:*");
    workload("", &["bull:mail:wait bull:mail:active"], "bull:mail:*");
    workload("", &["bull:q1:wait bull:q1:active"], "bull:{*}:*");
    workload("", &["mail jobs:17"], "jobs:*@home mail@home");
    workload("", &["user:1 user:2"], "user:*");
    workload("", &["k1 k2"], "k*@home");
    workload("", &["17:cart 17:seen"], "{*}:cart {*}:seen");
    workload("", &["17 cart:17"], "cart:{*}");
    workload("", &["we*ird:1 we*ird:2"], "we\\*ird:*");
    workload(
        "",
        &["set-550e8400-e29b-41d4-a716-446655440000.j set-550e8400-e29b-41d4-a716-446655440000.t"],
        "set-{*}.*",
    );
}

#[test]
fn what_no_rule_can_keep_together_is_said() {
    workload("", &["{a}x {b}x"], "");
    workload("", &["{a}x y"], "");
    workload("", &["17 18"], "");
    workload("", &["17:1 17:2"], "");
    // The rest of a group has its rule all the same.
    workload("", &["1795579726113 rsmq:mail", "rsmq:mail rsmq:QUEUES"], "rsmq:*");
}

#[test]
fn pairs_that_share_a_shape_get_one_remedy() {
    workload("", &["cart:17 seen:17", "cart:17 stock:17", "stock:8 seen:8"], "stock:{*} cart:{*} seen:{*}");
    // An id is the tag only if all of them have it.
    workload("", &["cart:17 seen:17", "cart:17 offers"], "offers@home cart:*@home seen:*@home");
    workload("", &["shop:17:cart shop:17:seen", "shop:17:cart shop:18:cart"], "shop:*");
    workload("", &["q:wait q:active", "q:active q:done", "q:done q:1:log"], "q:*");
    // Not the same id whenever they come.
    workload("", &["cart:1 seen:1", "cart:1 seen:2"], "cart:*@home seen:*@home");
    // One request with many keys: each belongs with the first.
    workload("", &["b:x:wait b:x:paused b:x:meta other"], "b:x:paused@home b:x:meta@home b:x:wait@home other@home");
}

#[test]
fn groups_do_not_take_each_others_keys() {
    // The wider rule would take the narrower one's keys.
    workload("", &["cart:1 seen:1", "cart:1:items cart:2:items", "cart:1 seen:1"], "cart:*@home seen:*@home");
    workload("", &["user:1 user:2", "user:1:cart user:1:seen"], "user:{*}:* user:*");
    workload("", &["a:1 b:1", "a:1:x b:1:x"], "a:{*}:* b:{*}:* a:{*} b:{*}");
}

#[test]
fn names_that_differ_are_one_family() {
    let mail = "bull:mail:wait bull:mail:active";
    workload("", &[mail, "bull:video:wait bull:video:active", "bull:video:id bull:video:wait"], "bull:{*}:*");
    // Different things under one word are none.
    workload("", &["app:a:x app:a:y", "app:b:z app:b:t"], "app:a:* app:b:*");
}

#[test]
fn presets_are_recognised() {
    workload("", &["rq:queue:a rq:queue:a:intermediate", "rq:job:1 rq:job:2"], "rq:*");
    // Everyday names tell no framework.
    workload("", &["queue:a queue:b"], "queue:*");
    // A pair that goes beyond the preset's keys.
    workload("", &["rq:job:1 rq:job:2", "rq:job:1 mine"], "mine@home rq:*@home");
}

#[test]
fn rules_that_are_there_are_kept_whole() {
    workload("bull:{*}:*", &["bull:mail:wait mine:x"], "bull:{*}:*@home mine:x@home");
    workload("lock:*@b", &["lock:1 mine:x"], "mine:x@b lock:*@b");
    workload("bull:{*}:*", &["bull:mail:wait bull:video:wait"], "bull:{*}:*@home");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever was seen: the rules keep together each pair for which they are said to be.
    #[test]
    fn the_rules_keep_together_what_they_are_for(
        requests in prop::collection::vec(prop::collection::vec("(a|b|rq|q)(:(a|b|x|1|2|11)){0,3}(\\{t\\})?", 2..4), 1..12),
        ruled in any::<bool>(),
    ) {
        let old = if ruled { vec![rule("a:{*}:*"), rule("b:*@b")] } else { Vec::new() };
        let mut tally = Tally::default();
        for keys in &requests {
            tally.count(&keys.iter().map(String::as_bytes).collect::<Vec<_>>(), b"eval", Outcome::Gathered);
        }
        let report = tally.report(&map(&old), &presets());
        let new = map(&report.rules.iter().chain(&old).cloned().collect::<Vec<_>>());
        let pairs: Vec<Pair> = tally.pairs.values().cloned().collect();
        let mut said = 0;
        for group in solve::solve(&pairs, &map(&old), &presets()) {
            said += group.pairs.len();
            let promised = matches!(group.remedy, Remedy::Rules(_) | Remedy::Preset(_));
            for (one, other) in group.pairs.iter().filter(|_| promised).flat_map(|at| &pairs[*at].samples) {
                prop_assert!(new.together(one, other), "{:?}\n{}", pairs, report.text);
            }
            let tagged = |at: &usize| pairs[*at].samples.iter().any(|(one, other)| one.ends_with(b"}") || other.ends_with(b"}"));
            prop_assert!(promised || group.pairs.iter().all(tagged), "{}", report.text);
        }
        prop_assert_eq!(said, pairs.len());
    }
}

#[test]
fn an_error_has_a_hint() {
    let tallies = Tallies::new(1, presets());
    let hint = |first: &str, second: &str| tallies.hint(&[first.as_bytes(), second.as_bytes()], &map(&[]));
    assert_eq!(hint("rq:a", "rq:b").as_deref(), Some("add [placement] presets = [\"rq\"]"));
    assert_eq!(hint("x:a", "x:b").as_deref(), Some("add [[colocate]] pattern = \"x:*\""));
    assert_eq!(
        hint("x", "y").as_deref(),
        Some("add [[colocate]] rules: pattern = \"x\", shard = \"home\"; pattern = \"y\", shard = \"home\"")
    );
    assert_eq!(hint("{x}", "y"), None);
    assert_eq!(hint("1", "2"), None);
}

#[test]
fn the_report_is_a_piece_of_the_configuration() {
    let mut tally = Tally::default();
    tally.count(&[b"rq:a", b"rq:b"], b"lmove", Outcome::Refused);
    tally.count(&[b"s:1", b"s:2"], b"sinter", Outcome::Gathered);
    tally.count(&[b"s:1", b"s:3"], b"sinter", Outcome::Gathered);
    tally.count(&[b"{x}", b"s:3"], b"sinter", Outcome::Gathered);
    let report = tally.report(&map(&[]), &presets());
    let text = "\
# Requests whose keys are on several shards: 1 refused, 3 gathered.
# A rule moves keys to other shards, and no key that is there already is moved with it: change
# rules only before a second shard holds data. The first rule that matches counts: keep the order.

# 1 x rq:a with rq:b (LMOVE 1)
# [placement] presets = [\"rq\"] stands for these rules.
[[colocate]]
pattern = \"rq:*\"

# 2 x s:* with s:* (SINTER 2)
[[colocate]]
pattern = \"s:*\"

# 1 x {x} with s:* (SINTER 1)
# Their own hash tags differ, and those win over any rule: use one tag for both.
";
    assert_eq!(report.text, text.replace("{x}", "\\{x}"));
    assert_eq!(report.counts, Counts { refused: 1, gathered: 3 });
}

#[test]
fn workers_are_summed() {
    let tallies = Tallies::new(2, Vec::new());
    for (worker, count) in [(0, 2), (1, 3)] {
        let mut tally = Tally::default();
        (0..count).for_each(|_| tally.count(&[b"x:a", b"x:b"], b"rename", Outcome::Refused));
        tallies.publish(worker, &mut tally);
    }
    let report = tallies.report(&map(&[]));
    assert!(
        report.text.contains("\n# 5 x x:a with x:b (RENAME 5)\n[[colocate]]\npattern = \"x:*\"\n"),
        "{}",
        report.text
    );
}

#[test]
fn counting_is_bounded() {
    let mut tally = Tally::default();
    let name = |n: usize| char::from(b'a' + (n % 26) as u8).to_string().repeat(1 + n / 26);
    for n in 0..PAIRS_MAX + 10 {
        tally.rest();
        tally.count(&[name(n).as_bytes(), b"x:1"], b"sinter", Outcome::Refused);
    }
    tally.count(&[b"x:2", b"a"], b"sinter", Outcome::Refused);
    assert_eq!((tally.pairs.len(), tally.others), (PAIRS_MAX, 10));
    for _ in 0..2 * LOOKS_MAX {
        tally.count(&[b"x:2", b"a"], b"sinter", Outcome::Refused);
    }
    assert!(tally.others >= u64::from(LOOKS_MAX), "{}", tally.others);
    tally.count(&[&[b'x'; 10_000], b"a"], b"sinter", Outcome::Refused);
    let kept = |pair: &Pair| pair.samples.iter().map(|(first, second)| first.len() + second.len()).sum::<usize>();
    assert!(tally.pairs.values().all(|pair| kept(pair) <= SAMPLES_MAX * 2 * KEY_BYTES_MAX));
    // Whatever comes, there is an answer.
    let text = tally.report(&map(&[]), &presets()).text;
    assert!(text.contains(" more were only counted"), "{text}");
}

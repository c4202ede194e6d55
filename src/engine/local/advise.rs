//! ADVISE: which keys of requests were on several shards, and the rule that would keep them together.
//!
//! Keys are remembered by shape, with numbers and ids folded, so that a few entries speak for all of
//! them and none shows a whole id. The rule is made from the first two keys of each pair of shapes:
//!
//! ```text
//! user:17:cart  user:17:seen     an id in both           user:{*}:*
//! cart:17       seen:17          the same                cart:{*}  seen:{*}
//! rq:queues     rq:jobs          the same beginning      rq:*
//! mail          jobs:17          nothing in common       mail, jobs:*  on one shard
//! ```

use std::collections::HashMap;
use std::fmt::Write;

use super::super::Engine;
use crate::topology::{Topology, Why};

/// Pairs of shapes that are remembered; what comes later is only counted.
const PAIRS_MAX: usize = 256;
/// Longer shapes are cut.
const SHAPE_BYTES_MAX: usize = 96;
/// What separates the parts of a key.
const SEPARATORS: &[u8] = b":./|";

const WARNING: &str = "\
# A rule moves keys to other shards, and no key that is there already is moved with it: change
# rules only before a second shard holds data. The first rule that matches counts.
";

/// A part of a key, and the separator before it.
type Part<'a> = (Option<u8>, &'a [u8]);

/// Requests with keys on several shards, refused or gathered, by the shapes of the keys.
#[derive(Debug, Default)]
pub(in crate::engine) struct Advice {
    pairs: HashMap<(String, String), Pair>,
    /// Requests with pairs beyond the limit.
    others: u64,
}

#[derive(Debug)]
struct Pair {
    count: u64,
    /// The command of the first one.
    command: String,
    remedy: Remedy,
}

/// What would have kept two keys together.
#[derive(Debug, PartialEq, Eq)]
enum Remedy {
    /// Patterns whose tag is the same for both.
    Tag(Vec<String>),
    /// Patterns that are put on one shard.
    Pin(Vec<String>),
    /// The keys have hash tags of their own, which win over any rule.
    HashTags,
    /// A rule for these keys would match all others, too.
    Nothing,
}

impl Engine {
    /// Counts a request that is refused or gathered: these two keys of it are on two shards.
    #[cold]
    pub(in crate::engine) fn advise(&mut self, first: &[u8], second: &[u8], command: &[u8]) {
        self.advice.count(first, second, command, &self.topology);
    }
}

impl Advice {
    fn count(&mut self, first: &[u8], second: &[u8], command: &[u8], map: &Topology) {
        let mut shapes = (shape(first), shape(second));
        if shapes.1 < shapes.0 {
            shapes = (shapes.1, shapes.0);
        }
        if let Some(pair) = self.pairs.get_mut(&shapes) {
            pair.count += 1;
        } else if self.pairs.len() < PAIRS_MAX {
            let command = String::from_utf8_lossy(command).to_uppercase();
            self.pairs.insert(shapes, Pair { count: 1, command, remedy: remedy(first, second, map) });
        } else {
            self.others += 1;
        }
    }

    /// The report, as a piece of the configuration; what is no rule is a comment.
    pub(super) fn text(&self, map: &Topology) -> String {
        if self.pairs.is_empty() {
            return "# No request was refused or gathered because its keys are on several shards.\n".to_owned();
        }
        let total: u64 = self.pairs.values().map(|pair| pair.count).sum::<u64>() + self.others;
        let mut text =
            format!("# Requests refused or gathered because their keys are on several shards: {total}\n{WARNING}");
        let mut pairs: Vec<_> = self.pairs.iter().collect();
        pairs.sort_by(|a, b| b.1.count.cmp(&a.1.count).then_with(|| a.0.cmp(b.0)));
        let mut written: Vec<&String> = Vec::new();
        for ((first, second), pair) in pairs {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "\n# {} x {} with {} ({})", pair.count, first, second, pair.command);
            let (patterns, pin) = match &pair.remedy {
                Remedy::Tag(patterns) => (patterns, ""),
                Remedy::Pin(patterns) => (patterns, "shard = \"home\"\n"),
                Remedy::HashTags => {
                    text.push_str("# Their own hash tags differ, and those win over any rule: use one tag for both.\n");
                    continue;
                }
                Remedy::Nothing => {
                    text.push_str(
                        "# A rule for them would match most other keys: give both one hash tag, as in {tag}.\n",
                    );
                    continue;
                }
            };
            for pattern in patterns {
                if written.contains(&pattern) {
                    let _ = writeln!(text, "# (the rule for {} stands above)", quoted(pattern));
                    continue;
                }
                written.push(pattern);
                let _ = write!(text, "[[colocate]]\npattern = {}\n{pin}", quoted(pattern));
            }
        }
        if self.others > 0 {
            let _ = writeln!(text, "\n# {} x other keys", self.others);
        }
        let _ = writeln!(text, "\n# Topology {}.", map.version());
        text
    }
}

/// The rule that would have kept two keys together.
fn remedy(first: &[u8], second: &[u8], map: &Topology) -> Remedy {
    let tagged = |key| map.locate(key).why == Why::HashTag;
    if tagged(first) || tagged(second) {
        return Remedy::HashTags;
    }
    let (ours, theirs) = (parts(first), parts(second));
    // An id that both have, at whatever place.
    for (at, (_, part)) in ours.iter().enumerate().filter(|(_, (_, part))| fold(part) == "*") {
        if let Some(other) = theirs.iter().position(|(_, theirs)| theirs == part) {
            let mut patterns = vec![tag_pattern(&ours, at), tag_pattern(&theirs, other)];
            patterns.dedup();
            // The whole key is its tag without a rule.
            patterns.retain(|pattern| pattern != "{*}");
            return if patterns.iter().all(|pattern| says_something(pattern)) {
                Remedy::Tag(patterns)
            } else {
                Remedy::Nothing
            };
        }
    }
    let same = |(ours, theirs): &(&Part<'_>, &Part<'_>)| ours == theirs && !is_folded(ours.1);
    let common = ours.iter().zip(&theirs).take_while(same).count();
    // The last part of a key is no beginning of others.
    let common = common.min(ours.len() - 1).min(theirs.len() - 1);
    let mut prefix = String::new();
    for (separator, part) in &ours[..common] {
        push(&mut prefix, *separator, &fold(part));
    }
    if says_something(&prefix) {
        push(&mut prefix, ours[common].0, "*");
        return Remedy::Tag(vec![prefix]);
    }
    let mut patterns = vec![shape(first), shape(second)];
    patterns.dedup();
    if patterns.iter().all(|pattern| says_something(pattern)) { Remedy::Pin(patterns) } else { Remedy::Nothing }
}

/// Whether a pattern tells some keys from the others, and not only by their separators.
fn says_something(pattern: &str) -> bool {
    pattern.replace("{*}", "").bytes().any(|byte| byte != b'*' && !SEPARATORS.contains(&byte))
}

/// A pattern for keys like these parts, whose tag is the part at `at`.
fn tag_pattern(parts: &[Part<'_>], at: usize) -> String {
    let mut pattern = String::new();
    for (separator, part) in &parts[..at] {
        push(&mut pattern, *separator, &fold(part));
    }
    push(&mut pattern, parts[at].0, "{*}");
    // What follows may be anything where the beginning says enough.
    if says_something(&pattern)
        && let Some((separator, _)) = parts.get(at + 1)
    {
        push(&mut pattern, *separator, "*");
        return pattern;
    }
    for (separator, part) in &parts[at + 1..] {
        push(&mut pattern, *separator, &fold(part));
    }
    pattern
}

fn push(pattern: &mut String, separator: Option<u8>, part: &str) {
    pattern.extend(separator.map(char::from));
    pattern.push_str(part);
}

/// The parts of a key, each with the separator before it.
fn parts(key: &[u8]) -> Vec<Part<'_>> {
    let mut separator = None;
    let mut parts = Vec::new();
    let mut rest = key;
    while let Some(at) = rest.iter().position(|byte| SEPARATORS.contains(byte)) {
        parts.push((separator, &rest[..at]));
        separator = Some(rest[at]);
        rest = &rest[at + 1..];
    }
    parts.push((separator, rest));
    parts
}

/// A key with its numbers and ids folded: a pattern that matches it, as a rule is written.
fn shape(key: &[u8]) -> String {
    let mut shape = String::new();
    for (separator, part) in parts(key) {
        push(&mut shape, separator, &fold(part));
        if shape.len() > SHAPE_BYTES_MAX {
            let mut end = SHAPE_BYTES_MAX;
            while !shape.is_char_boundary(end) {
                end -= 1;
            }
            shape.truncate(end);
            // Half of an escape says nothing.
            while shape.ends_with(['\\', '*']) {
                shape.pop();
            }
            shape.push('*');
            break;
        }
    }
    shape
}

/// One part: numbers become `*`, and the whole part does when it looks like an id.
fn fold(part: &[u8]) -> String {
    if !is_folded(part) {
        return escaped(part);
    }
    let digits = part.iter().filter(|byte| byte.is_ascii_digit()).count();
    let hex = part.iter().all(|byte| byte.is_ascii_hexdigit() || *byte == b'-');
    let word = part.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'));
    let id = digits > 0 && (hex && part.len() >= 8 || word && part.len() >= 16 && digits >= 3);
    if id || std::str::from_utf8(part).is_ok_and(|text| text.contains(char::is_control)) {
        return "*".to_owned();
    }
    let words: Vec<&[u8]> = part.chunk_by(|a, b| a.is_ascii_digit() == b.is_ascii_digit()).collect();
    words.iter().map(|word| if word[0].is_ascii_digit() { "*".to_owned() } else { escaped(word) }).collect()
}

/// Whether something of the part is not shown.
fn is_folded(part: &[u8]) -> bool {
    part.iter().any(u8::is_ascii_digit)
        || std::str::from_utf8(part).map_or(true, |text| text.contains(char::is_control))
}

/// Literal text in a pattern; what is no text is a wildcard.
fn escaped(word: &[u8]) -> String {
    let Ok(text) = std::str::from_utf8(word) else { return "*".to_owned() };
    let mut escaped = String::new();
    for letter in text.chars() {
        if matches!(letter, '*' | '\\' | '{') {
            escaped.push('\\');
        }
        escaped.push(letter);
    }
    escaped
}

/// A TOML string.
fn quoted(pattern: &str) -> String {
    format!("\"{}\"", pattern.replace('\\', "\\\\").replace('"', "\\\""))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::{Colocate, Endpoint, Kind, Pattern, Shard, Spec};

    fn map(rules: &[(&str, Option<&str>)]) -> Topology {
        let shard = |name: &str| Shard {
            name: name.to_owned(),
            endpoint: Endpoint::Tcp { host: "127.0.0.1".to_owned(), port: 1 },
            weight: 1,
        };
        let rule = |(pattern, shard): &(&str, Option<&str>)| Colocate {
            pattern: (*pattern).to_owned(),
            shard: shard.map(str::to_owned),
        };
        let colocate = rules.iter().map(rule).collect();
        let shards = vec![shard("a"), shard("b"), shard("c")];
        Topology::build(&Spec { shards, home: None, kind: Kind::Slots, colocate }, 1).expect("a topology")
    }

    fn folds(key: &str, expected: &str) {
        let found = shape(key.as_bytes());
        assert_eq!(found, expected, "{key}");
        if !found.is_empty() && found.len() <= SHAPE_BYTES_MAX {
            let pattern = Pattern::parse(&found).expect("a pattern");
            assert!(pattern.tag(key.as_bytes()).is_some(), "{found} matches {key}");
        }
    }

    /// The rules for two keys, which then do keep them on one shard.
    fn remedies(first: &str, second: &str, expected: &str) {
        let (first, second) = (first.as_bytes(), second.as_bytes());
        let (rules, pin) = match remedy(first, second, &map(&[])) {
            Remedy::Tag(rules) => (rules, None),
            Remedy::Pin(rules) => (rules, Some("home")),
            Remedy::HashTags => return assert_eq!("tags", expected),
            Remedy::Nothing => return assert_eq!("nothing", expected),
        };
        let said = format!("{}{}", rules.join(" "), if pin.is_some() { " pinned" } else { "" });
        assert_eq!(said, expected);
        let rules: Vec<_> = rules.iter().map(|rule| (rule.as_str(), pin)).collect();
        let map = map(&rules);
        assert_eq!(map.shard_of(first), map.shard_of(second), "{expected}");
    }

    #[test]
    fn numbers_and_ids_are_folded() {
        folds("user:17:cart", "user:*:cart");
        folds("job17", "job*");
        folds("s:550e8400-e29b-41d4-a716-446655440000:x", "s:*:x");
        folds("s:deadbeef01", "s:*");
        folds("s:facade", "s:facade");
        folds("s:V1StGXR8_Z5jdHi6B-myT", "s:*");
        folds("a*b", "a\\*b");
        folds("a\\b", "a\\\\b");
        folds("a{*}b", "a\\{\\*}b");
        folds("", "");
        assert_eq!(shape(b"a:\xff\xfe:b"), "a:*:b");
        assert!(shape(&[b'x'; 500]).len() <= SHAPE_BYTES_MAX + 1);
        assert!(shape(&[b'*'; 500]).len() <= SHAPE_BYTES_MAX + 1);
    }

    #[test]
    fn the_rule_keeps_the_keys_together() {
        remedies("user:17:cart", "user:17:seen", "user:{*}:*");
        remedies("cart:17", "seen:17", "cart:{*} seen:{*}");
        remedies("a:x:17:b", "17:c", "a:x:{*}:* {*}:c");
        remedies("rq:queues", "rq:jobs", "rq:*");
        remedies("bull:mail:wait", "bull:mail:id", "bull:mail:*");
        remedies("mail", "jobs:17", "mail jobs:* pinned");
        remedies("user:1", "user:2", "user:*");
        remedies("k1", "k2", "k* pinned");
        remedies("{a}x", "{b}x", "tags");
        remedies("17:cart", "17:seen", "{*}:cart {*}:seen");
        remedies("17", "cart:17", "cart:{*}");
        remedies("17", "18", "nothing");
        remedies("", "x", "nothing");
        remedies("17:1", "17:2", "nothing");
        remedies("we*ird:1", "we*ird:2", "we\\*ird:*");
    }

    #[test]
    fn the_table_is_bounded() {
        let (mut advice, map) = (Advice::default(), map(&[]));
        let name = |n: usize| char::from(b'a' + (n % 26) as u8).to_string().repeat(1 + n / 26);
        for n in 0..PAIRS_MAX + 10 {
            advice.count(name(n).as_bytes(), b"x:1", b"sinter", &map);
        }
        advice.count(b"x:2", b"a", b"sinter", &map);
        let text = advice.text(&map);
        assert_eq!(advice.pairs.len(), PAIRS_MAX);
        assert!(
            text.contains("\n# 2 x a with x:* (SINTER)\n[[colocate]]\npattern = \"a\"\nshard = \"home\"\n"),
            "{text}"
        );
        assert!(text.contains("\n# 10 x other keys\n"), "{text}");
    }
}

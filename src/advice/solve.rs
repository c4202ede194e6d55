//! From pairs of keys to rules: the narrowest that keep each pair together, all of them at once.
//!
//! ```text
//! user:17:cart  user:17:seen     an id in both           user:{*}:*
//! cart:17       seen:17          the same                cart:{*}  seen:{*}
//! rq:queues     rq:jobs          the same beginning      rq:*
//! mail          jobs:17          nothing in common       mail, jobs:*  on one shard
//! ```
//! Shapes that are in one pair belong together, and so do those of pairs that share one: such a group
//! gets one remedy. The rules of all groups are then tried on the keys that were seen,
//! narrower ones first. Where one group's rule takes another's key the two become one group, or a group
//! gets the next wider remedy, until all pairs are together.

use std::borrow::Cow;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use super::shape::{fold, is_folded, literals, parts, push, says_something, tag_pattern};
use super::{Pair, Preset};
use crate::topology::{Colocate, Pattern, Topology, Why};

/// Pairs of keys that one remedy keeps together; the pairs by their place in the list.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Group {
    pub(super) pairs: Vec<usize>,
    pub(super) remedy: Remedy,
}

/// What keeps keys together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Remedy {
    Rules(Vec<Colocate>),
    /// The rules of this preset.
    Preset(usize),
    /// The keys have hash tags of their own, which win over any rule.
    HashTags,
    /// A rule for these keys would match most others, too.
    Nothing,
}

/// How wide a group's rules may be, from the narrowest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Width {
    Tag,
    Prefix,
    Shard,
    Nothing,
}

/// Where a key goes: with all that have this tag, or to this shard.
#[derive(PartialEq, Eq)]
enum Goes<'a> {
    With(&'a [u8]),
    To(&'a str),
}

/// Groups and their remedies; the rules count in this order, and before those of the topology.
pub(super) fn solve(pairs: &[Pair], map: &Topology, presets: &[Preset]) -> Vec<Group> {
    let mut state: Vec<State> = pairs.iter().map(|pair| State::of(pair, map, presets)).collect();
    let used: BTreeSet<usize> = state.iter().filter_map(|state| state.preset).collect();
    let ground = Ground { map, presets: used.into_iter().map(|at| &presets[at]).collect() };
    // Only a wider remedy can bring the keys of rules that are there, or will be, to others.
    for (state, pair) in state.iter_mut().zip(pairs).filter(|(state, _)| state.preset.is_none()) {
        if pair.samples.iter().any(|(one, other)| ground.rule(one).or_else(|| ground.rule(other)).is_some()) {
            state.width = Width::Shard;
        }
    }
    // Each round makes a group wider or two groups one.
    for _ in 0..6 * pairs.len() + 6 {
        let mut groups = groups(pairs, &state, &ground, presets);
        let hopeless: Vec<usize> = groups
            .iter()
            .filter(|group| group.remedy == Remedy::Nothing)
            .flat_map(|group| group.pairs.iter().copied())
            .filter(|at| state[*at].width != Width::Nothing)
            .collect();
        if !hopeless.is_empty() {
            // The others of their group may have a remedy without those that say nothing.
            let says = |at: &usize| says_something(&pairs[*at].shapes.0) && says_something(&pairs[*at].shapes.1);
            let all = hopeless.iter().all(says);
            hopeless.iter().filter(|at| all || !says(at)).for_each(|at| state[*at].width = Width::Nothing);
            continue;
        }
        // What matches less comes first, else it would match nothing.
        groups
            .sort_by_key(|group| Reverse(rules(&group.remedy, presets).map(|(_, rule)| literals(&rule.pattern)).max()));
        let failing = failing(&groups, pairs, map, presets);
        if failing.is_empty() {
            return groups;
        }
        for (pair, takers) in failing {
            widen(&mut state, &groups, pair, &takers);
        }
    }
    // Not reached: the widest remedy of all is none, and then nothing fails.
    Vec::new()
}

/// The rules that are there, or will be, before any for the pairs at hand.
struct Ground<'a> {
    map: &'a Topology,
    presets: Vec<&'a Preset>,
}

/// What is known of a pair besides its keys.
struct State {
    width: Width,
    /// The pairs that it must share a remedy with, though no shape says so.
    with: BTreeSet<usize>,
    preset: Option<usize>,
    tagged: bool,
}

impl State {
    fn of(pair: &Pair, map: &Topology, presets: &[Preset]) -> Self {
        let keys = || pair.samples.iter().flat_map(|(first, second)| [first, second]);
        let together = |preset: &Preset| {
            let rules = || preset.rules.iter().map(|(pattern, rule)| (0, pattern, rule));
            pair.samples.iter().all(|(first, second)| match (goes(rules(), first), goes(rules(), second)) {
                // A rule that pins is for keys with everyday names: they do not tell a framework.
                (Some((_, Goes::With(one))), Some((_, Goes::With(other)))) => one == other,
                _ => false,
            })
        };
        let ruled = keys().any(|key| matches!(map.locate(key).why, Why::Rule(_) | Why::Pinned(_)));
        Self {
            width: Width::Tag,
            with: BTreeSet::new(),
            preset: presets.iter().position(together).filter(|_| !ruled),
            tagged: keys().any(|key| map.locate(key).why == Why::HashTag),
        }
    }

    /// Those that have no remedy stay alone.
    fn joins(&self, other: &Self) -> bool {
        [self, other].iter().all(|state| state.width != Width::Nothing && !state.tagged)
    }
}

impl<'a> Ground<'a> {
    /// The pattern that decides where a key goes.
    fn rule(&self, key: &'a [u8]) -> Option<&'a str> {
        match self.map.locate(key).why {
            Why::Rule(rule) | Why::Pinned(rule) => return Some(rule),
            Why::HashTag => return None,
            Why::WholeKey => {}
        }
        let mut rules = self.presets.iter().flat_map(|preset| &preset.rules);
        rules.find(|(pattern, _)| pattern.tag(key).is_some()).map(|(_, rule)| rule.pattern.as_str())
    }

    /// What stands for one key of a pair where pairs meet: its shape, or the rule that decides already.
    fn node(&self, pair: &'a Pair, side: usize) -> &'a str {
        let (first, second) = &pair.samples[0];
        let shape = [&pair.shapes.0, &pair.shapes.1][side];
        self.rule([first, second][side]).unwrap_or(shape)
    }
}

/// The pairs that share shapes, each such group with the narrowest remedy that it may have.
fn groups<'a>(pairs: &'a [Pair], state: &[State], ground: &Ground<'a>, presets: &[Preset]) -> Vec<Group> {
    let mut root: Vec<usize> = (0..pairs.len()).collect();
    let find = |root: &[usize], mut at: usize| {
        while root[at] != at {
            at = root[at];
        }
        at
    };
    let mut owners: BTreeMap<String, usize> = BTreeMap::new();
    for (at, pair) in pairs.iter().enumerate() {
        let names = match (state[at].tagged, state[at].preset) {
            // Those with tags of their own are nobody's business.
            (true, _) => vec!["tagged".to_owned()],
            (_, Some(preset)) => vec![format!("preset {}", presets[preset].name)],
            _ if state[at].width == Width::Nothing => vec!["nothing".to_owned()],
            _ => [ground.node(pair, 0), ground.node(pair, 1)].map(|node| format!("key {node}")).to_vec(),
        };
        let with = state[at].with.iter().copied().filter(|other| state[at].joins(&state[*other]));
        let others: Vec<usize> = names.into_iter().map(|name| *owners.entry(name).or_insert(at)).chain(with).collect();
        for other in others {
            let (one, other) = (find(&root, at), find(&root, other));
            root[one.max(other)] = one.min(other);
        }
    }
    let mut members: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for at in 0..pairs.len() {
        members.entry(find(&root, at)).or_default().push(at);
    }
    let remedy = |members: &[usize]| {
        let first = &state[members[0]];
        if first.tagged {
            return Remedy::HashTags;
        }
        let preset = members.iter().map(|at| state[*at].preset).reduce(|one, other| one.filter(|_| one == other));
        if let Some(preset) = preset.flatten() {
            return Remedy::Preset(preset);
        }
        let width = members.iter().map(|at| state[*at].width).max().unwrap_or(Width::Tag);
        let members: Vec<&Pair> = members.iter().map(|at| &pairs[*at]).collect();
        None.or_else(|| (width <= Width::Tag).then(|| by_tag(&members)).flatten())
            .or_else(|| (width <= Width::Prefix).then(|| by_prefix(&members)).flatten())
            .or_else(|| (width <= Width::Shard).then(|| on_one_shard(&members, ground)).flatten())
            .unwrap_or(Remedy::Nothing)
    };
    let mut groups: Vec<Group> =
        members.into_values().map(|members| Group { remedy: remedy(&members), pairs: members }).collect();
    generalise(&mut groups, pairs);
    groups
}

/// One part of each shape is the tag: an id that is the same in the keys of every pair.
fn by_tag(pairs: &[&Pair]) -> Option<Remedy> {
    let keys = sample_keys(pairs);
    let first = pairs[0].shapes.0.as_str();
    let ids = parts(keys[first]);
    let mut roots: Vec<usize> = (0..ids.len()).filter(|at| is_folded(ids[*at].1)).collect();
    roots.sort_by_key(|at| fold(ids[*at].1) != "*");
    'roots: for root in roots {
        let mut tags: BTreeMap<&str, usize> = BTreeMap::from([(first, root)]);
        // A pair leads from a shape whose tag is known to the other one's.
        loop {
            let before = tags.len();
            for pair in pairs {
                let (one, other) = (pair.shapes.0.as_str(), pair.shapes.1.as_str());
                match (tags.get(one).copied(), tags.get(other).copied()) {
                    (Some(one), Some(other)) if !pair.equal.contains(&(one, other)) => continue 'roots,
                    (Some(at), None) => match pair.equal.iter().find(|equal| equal.0 == at) {
                        Some(equal) => _ = tags.insert(other, equal.1),
                        None => continue 'roots,
                    },
                    (None, Some(at)) => match pair.equal.iter().find(|equal| equal.1 == at) {
                        Some(equal) => _ = tags.insert(one, equal.0),
                        None => continue 'roots,
                    },
                    _ => {}
                }
            }
            if tags.len() == before {
                break;
            }
        }
        let patterns: BTreeSet<String> = tags
            .iter()
            .map(|(shape, at)| tag_pattern(&parts(keys[shape]), *at))
            .filter(|pattern| pattern != "{*}")
            .collect();
        // The whole key is its tag without a rule; a pattern that says nothing would take everything.
        if tags.len() == keys.len() && patterns.iter().all(|pattern| says_something(pattern)) {
            return Some(ordered(patterns, None));
        }
    }
    None
}

/// What stands before the first star is the tag: parts with which all keys begin.
fn by_prefix(pairs: &[&Pair]) -> Option<Remedy> {
    let keys: Vec<_> = sample_keys(pairs).into_values().map(parts).collect();
    let first = &keys[0];
    // The last part of a key is no beginning of others.
    let least = keys.iter().map(Vec::len).min()?.checked_sub(1)?;
    let same = |at: &usize| !is_folded(first[*at].1) && keys.iter().all(|key| key[*at] == first[*at]);
    let common = (0..least).take_while(same).count();
    let mut prefix = String::new();
    for (separator, part) in &first[..common] {
        push(&mut prefix, *separator, &fold(part));
    }
    if !says_something(&prefix) {
        return None;
    }
    push(&mut prefix, first[common].0, "*");
    Some(Remedy::Rules(vec![Colocate { pattern: prefix, shard: None }]))
}

/// Whatever looks like these keys is put on one shard: the one on which a rule puts some of them now.
fn on_one_shard<'a>(pairs: &[&'a Pair], ground: &Ground<'a>) -> Option<Remedy> {
    let mut shard = "home";
    let mut patterns = BTreeSet::new();
    for pair in pairs {
        for (side, key) in [&pair.samples[0].0, &pair.samples[0].1].into_iter().enumerate() {
            let place = ground.map.locate(key);
            if matches!(place.why, Why::Pinned(_)) && place.shard != ground.map.home() {
                shard = &ground.map.shard(place.shard).name;
            }
            patterns.insert(ground.node(pair, side).to_owned());
        }
    }
    if !patterns.iter().all(|pattern| says_something(pattern)) {
        return None;
    }
    // What another one matches, wildcards and all, needs no rule of its own.
    let all: Vec<(String, Pattern)> =
        patterns.iter().filter_map(|text| Some((text.clone(), Pattern::parse(text).ok()?))).collect();
    patterns.retain(|text| {
        text.contains('\\')
            || all.iter().all(|(other, pattern)| other == text || pattern.tag(text.as_bytes()).is_none())
    });
    Some(ordered(patterns, Some(shard)))
}

/// Groups that differ in one name, as in `bull:mail:*` and `bull:video:*`, and pair the same things, get
/// one rule for all names, those to come too.
fn generalise(groups: &mut [Group], pairs: &[Pair]) {
    // Of each group with one prefix: what is before the name, and the pairs of what follows it.
    let mut families: BTreeMap<(String, (String, String)), Vec<usize>> = BTreeMap::new();
    for (at, group) in groups.iter().enumerate() {
        let Remedy::Rules(rules) = &group.remedy else { continue };
        let [Colocate { pattern, shard: None }] = rules.as_slice() else { continue };
        let Some(prefix) = pattern.strip_suffix('*').filter(|prefix| !prefix.contains("{*}")) else { continue };
        let Some(cut) = prefix[..prefix.len().saturating_sub(1)].rfind([':', '.', '/', '|']) else { continue };
        for pair in &group.pairs {
            let (first, second) = &pairs[*pair].shapes;
            if let (Some(first), Some(second)) = (first.strip_prefix(prefix), second.strip_prefix(prefix)) {
                let last = &prefix[prefix.len() - 1..];
                let family = (format!("{}{{*}}{last}*", &prefix[..=cut]), (first.to_owned(), second.to_owned()));
                families.entry(family).or_default().push(at);
            }
        }
    }
    for ((pattern, _), mut members) in families {
        members.dedup();
        if members.len() > 1 && says_something(&pattern) {
            for at in members {
                groups[at].remedy = Remedy::Rules(vec![Colocate { pattern: pattern.clone(), shard: None }]);
            }
        }
    }
}

/// A key for each shape.
fn sample_keys<'a>(pairs: &[&'a Pair]) -> BTreeMap<&'a str, &'a [u8]> {
    let sides = |pair: &&'a Pair| {
        let (first, second) = &pair.samples[0];
        [(pair.shapes.0.as_str(), first.as_slice()), (pair.shapes.1.as_str(), second.as_slice())]
    };
    pairs.iter().flat_map(sides).collect()
}

/// Rules of these patterns, the narrower one first.
fn ordered(patterns: BTreeSet<String>, shard: Option<&str>) -> Remedy {
    let mut patterns: Vec<String> = patterns.into_iter().collect();
    patterns.sort_by_key(|pattern| Reverse(literals(pattern)));
    let rule = |pattern| Colocate { pattern, shard: shard.map(str::to_owned) };
    Remedy::Rules(patterns.into_iter().map(rule).collect())
}

/// The rules of a remedy.
pub(super) fn rules<'a>(
    remedy: &'a Remedy,
    presets: &'a [Preset],
) -> impl Iterator<Item = (Cow<'a, Pattern>, &'a Colocate)> {
    let (own, preset): (&[Colocate], &[(Pattern, Colocate)]) = match remedy {
        Remedy::Rules(rules) => (rules, &[]),
        Remedy::Preset(preset) => (&[], &presets[*preset].rules),
        Remedy::HashTags | Remedy::Nothing => (&[], &[]),
    };
    let own = own.iter().filter_map(|rule| Some((Cow::Owned(Pattern::parse(&rule.pattern).ok()?), rule)));
    own.chain(preset.iter().map(|(pattern, rule)| (Cow::Borrowed(pattern), rule)))
}

/// Where the first rule that matches puts a key, and the rule's number.
fn goes<'a>(
    mut rules: impl Iterator<Item = (usize, &'a Pattern, &'a Colocate)>,
    key: &'a [u8],
) -> Option<(usize, Goes<'a>)> {
    rules.find_map(|(at, pattern, rule)| {
        let tag = pattern.tag(key)?;
        Some((at, rule.shard.as_deref().map_or(Goes::With(tag), Goes::To)))
    })
}

/// The pairs that the rules do not keep together, and the groups whose rules took a key of theirs.
fn failing(groups: &[Group], pairs: &[Pair], map: &Topology, presets: &[Preset]) -> Vec<(usize, Vec<usize>)> {
    let all: Vec<_> = groups
        .iter()
        .enumerate()
        .flat_map(|(at, group)| rules(&group.remedy, presets).map(move |(pattern, rule)| (at, pattern, rule)))
        .collect();
    let place = |key| match goes(all.iter().map(|(at, pattern, rule)| (*at, &**pattern, *rule)), key) {
        Some((taker, goes)) => (Some(taker), goes),
        None => {
            let place = map.locate(key);
            (
                None,
                match place.why {
                    Why::Pinned(_) if place.shard == map.home() => Goes::To("home"),
                    Why::Pinned(_) => Goes::To(&map.shard(place.shard).name),
                    Why::Rule(_) | Why::HashTag | Why::WholeKey => Goes::With(place.tag),
                },
            )
        }
    };
    let mut failing = Vec::new();
    for group in groups.iter().filter(|group| !matches!(group.remedy, Remedy::HashTags | Remedy::Nothing)) {
        for at in &group.pairs {
            let places: Vec<_> = pairs[*at].samples.iter().map(|(one, other)| (place(one), place(other))).collect();
            if places.iter().any(|(one, other)| one.1 != other.1) {
                let takers: BTreeSet<usize> =
                    places.iter().flat_map(|(one, other)| one.0.into_iter().chain(other.0)).collect();
                failing.push((*at, takers.into_iter().collect()));
            }
        }
    }
    failing
}

/// Makes a pair's remedy wider: it becomes that of the groups that took its keys, too, or the next wider
/// one of its own.
fn widen(state: &mut [State], groups: &[Group], pair: usize, takers: &[usize]) {
    let own = groups.iter().position(|group| group.pairs.contains(&pair)).unwrap_or_default();
    let others: Vec<usize> = takers.iter().copied().filter(|taker| *taker != own).collect();
    state[pair].preset = None;
    for at in groups[own].pairs.iter().chain(others.iter().flat_map(|taker| &groups[*taker].pairs)) {
        state[*at].preset = None;
        state[pair].with.insert(*at);
    }
    state[pair].with.remove(&pair);
    if others.is_empty() {
        state[pair].width = match state[pair].width {
            Width::Tag => Width::Prefix,
            Width::Prefix => Width::Shard,
            Width::Shard | Width::Nothing => Width::Nothing,
        };
    }
}

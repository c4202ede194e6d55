//! Where a key lives: an immutable, numbered snapshot of shards and the slots that they own.
//!
//! The only place that knows which shard holds a key. A change of the topology is a new snapshot,
//! swapped whole; nothing here ever changes once it is built.

use std::fmt;
use std::path::PathBuf;

use memchr::memchr;

mod colocate;
mod crc16;
mod ring;
mod spec;
mod twemproxy;

pub use colocate::{Pattern, PatternError};
pub use ring::{POINTS_MAX, POINTS_PER_WEIGHT};
pub use spec::{Colocate, Idle, Kind, SHARDS_MAX, Spec, TopologyError};
pub use twemproxy::KeyHash;

use twemproxy::Distribution;

/// The number of hash slots.
pub const SLOTS: usize = 16_384;

/// A snapshot of where every key lives.
#[derive(Clone, Debug)]
pub struct Topology {
    version: u64,
    shards: Vec<Shard>,
    home: ShardId,
    placement: Placement,
    /// In the order of the configuration; the first that matches counts.
    rules: Vec<Rule>,
    /// The slots of each shard; zeros where the placement knows none.
    slots: Vec<u32>,
}

/// Where a key lives, and what decided it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Location<'a> {
    /// The bytes that were hashed.
    pub tag: &'a [u8],
    /// Nothing where the placement knows no slots, and where a rule pins the key to a shard.
    pub slot: Option<Slot>,
    pub shard: ShardId,
    pub why: Why<'a>,
}

/// What decided where a key lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why<'a> {
    /// All of its bytes are hashed.
    WholeKey,
    /// It has a tag in braces.
    HashTag,
    /// This rule's pattern names its tag.
    Rule(&'a str),
    /// This rule's pattern puts it on one shard.
    Pinned(&'a str),
}

#[derive(Clone, Debug)]
enum Placement {
    /// Slots and no rules: the path that costs nothing more.
    Plain(Box<[ShardId; SLOTS]>),
    /// Slots behind rules.
    Ruled(Box<[ShardId; SLOTS]>),
    /// twemproxy's; the distribution is nothing for a single shard, which hashes nothing.
    Twemproxy { hash: KeyHash, hash_tag: Option<[u8; 2]>, distribution: Distribution },
}

#[derive(Clone, Debug)]
struct Rule {
    text: String,
    pattern: Pattern,
    pinned: Option<ShardId>,
}

/// A shard's place in [`Topology::shards`], the order of the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ShardId(pub u16);

/// One of the 16,384 hash slots of Redis Cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Slot(pub u16);

/// One plain Redis behind the proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shard {
    /// Its identity on the ring.
    pub name: String,
    pub endpoint: Endpoint,
    pub weight: u32,
}

/// How a shard is reached; names are resolved at every connect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    Tcp { host: String, port: u16 },
    Unix(PathBuf),
}

impl Topology {
    /// The topology of `spec`. Takes milliseconds, a second for the largest rings: it is no work for
    /// a thread that moves data.
    ///
    /// # Errors
    /// The spec contradicts itself or asks for too much, see [`TopologyError`].
    pub fn build(spec: &Spec, version: u64) -> Result<Self, TopologyError> {
        spec.check()?;
        let named = |name: &str| spec.shards.iter().position(|shard| shard.name == name);
        let home = match &spec.home {
            None => 0,
            Some(name) => named(name).ok_or_else(|| TopologyError::UnknownHome { name: name.clone() })?,
        };
        let home = ShardId(home as u16);
        let mut rules = Vec::with_capacity(spec.colocate.len());
        for (index, rule) in spec.colocate.iter().enumerate() {
            let bad = |reason| TopologyError::BadPattern { index, reason };
            let pattern = Pattern::parse(&rule.pattern).map_err(bad)?;
            let pinned = match rule.shard.as_deref() {
                None => {
                    pattern.check_tag().map_err(bad)?;
                    None
                }
                Some("home") => Some(home),
                Some(name) => match named(name) {
                    Some(shard) => Some(ShardId(shard as u16)),
                    None => {
                        return Err(TopologyError::UnknownShard { index, name: name.to_owned() });
                    }
                },
            };
            rules.push(Rule { text: rule.pattern.clone(), pattern, pinned });
        }

        let placement = match spec.kind {
            Kind::Slots if ring::points(&spec.shards) > POINTS_MAX => {
                return Err(TopologyError::TooManyPoints { points: ring::points(&spec.shards) });
            }
            Kind::Slots if rules.is_empty() => Placement::Plain(ring::place(&spec.shards)),
            Kind::Slots => Placement::Ruled(ring::place(&spec.shards)),
            Kind::Ketama { hash, hash_tag } => {
                Placement::Twemproxy { hash, hash_tag, distribution: Distribution::ketama(&spec.shards) }
            }
            Kind::Modula { hash, hash_tag } => {
                Placement::Twemproxy { hash, hash_tag, distribution: Distribution::modula(&spec.shards) }
            }
        };
        let mut slots = vec![0; spec.shards.len()];
        if let Placement::Plain(table) | Placement::Ruled(table) = &placement {
            for shard in table.iter() {
                slots[shard.0 as usize] += 1;
            }
        }
        Ok(Self { version, shards: spec.shards.clone(), home, placement, rules, slots })
    }

    /// The number of this snapshot, which grows with every change.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.version
    }

    /// All shards, in the order of the configuration.
    #[must_use]
    pub fn shards(&self) -> &[Shard] {
        &self.shards
    }

    /// The shard itself; `id` must be of this topology.
    #[must_use]
    pub fn shard(&self, id: ShardId) -> &Shard {
        &self.shards[id.0 as usize]
    }

    /// The shard called `name`; `home` means the home shard.
    #[must_use]
    pub fn named(&self, name: &str) -> Option<ShardId> {
        if name == "home" {
            return Some(self.home);
        }
        let index = self.shards.iter().position(|shard| shard.name == name)?;
        Some(ShardId(index as u16))
    }

    /// The shard for what belongs to no key.
    #[must_use]
    pub fn home(&self) -> ShardId {
        self.home
    }

    /// The shard that holds `key`.
    #[inline]
    #[must_use]
    pub fn shard_of(&self, key: &[u8]) -> ShardId {
        match &self.placement {
            Placement::Plain(table) if !has_brace(key) => table[slot(key).0 as usize],
            _ => self.locate(key).shard,
        }
    }

    /// The slot of `key`; nothing where the placement knows no slots or a rule pins the key.
    #[must_use]
    pub fn slot_of(&self, key: &[u8]) -> Option<Slot> {
        self.locate(key).slot
    }

    /// The shard that owns `slot`; nothing where the placement knows no slots.
    #[must_use]
    pub fn owner(&self, slot: Slot) -> Option<ShardId> {
        match &self.placement {
            Placement::Plain(table) | Placement::Ruled(table) => table.get(slot.0 as usize).copied(),
            Placement::Twemproxy { .. } => None,
        }
    }

    /// The number of slots of `shard`; 0 where the placement knows none.
    #[must_use]
    pub fn slots_of(&self, shard: ShardId) -> u32 {
        self.slots[shard.0 as usize]
    }

    /// The part of all tags that `shard` holds, 0 to 1.
    #[must_use]
    pub fn share(&self, shard: ShardId) -> f64 {
        match &self.placement {
            Placement::Plain(_) | Placement::Ruled(_) => f64::from(self.slots_of(shard)) / SLOTS as f64,
            Placement::Twemproxy { .. } if self.shards.len() == 1 => 1.0,
            Placement::Twemproxy { distribution, .. } => distribution.share(shard),
        }
    }

    /// Where `key` lives, and why.
    #[must_use]
    #[inline(never)]
    pub fn locate<'a>(&'a self, key: &'a [u8]) -> Location<'a> {
        let (tag, why, pinned) = self.tag(key);
        let (slot, shard) = match &self.placement {
            _ if let Some(shard) = pinned => (None, shard),
            Placement::Plain(table) | Placement::Ruled(table) => {
                let slot = slot(tag);
                (Some(slot), table[slot.0 as usize])
            }
            Placement::Twemproxy { .. } if self.shards.len() == 1 => (None, ShardId(0)),
            Placement::Twemproxy { hash, distribution, .. } => (None, distribution.shard(hash.of(tag))),
        };
        Location { tag, slot, shard, why }
    }

    /// Whether all keys are on one shard because there is no other.
    #[must_use]
    pub fn is_alone(&self) -> bool {
        self.shards.len() == 1
    }

    /// Whether two keys stay on one shard, whatever shards there will be: they have one tag, or rules pin
    /// both there.
    #[must_use]
    pub fn together(&self, one: &[u8], other: &[u8]) -> bool {
        match (self.tag(one), self.tag(other)) {
            ((_, _, Some(one)), (_, _, Some(other))) => one == other,
            ((one, _, None), (other, _, None)) => one == other,
            _ => false,
        }
    }

    /// The bytes of `key` that are hashed: its own tag, else the first rule's that matches.
    fn tag<'a>(&'a self, key: &'a [u8]) -> (&'a [u8], Why<'a>, Option<ShardId>) {
        let own = match &self.placement {
            Placement::Twemproxy { hash_tag, .. } => hash_tag.and_then(|pair| enclosed(key, pair)),
            Placement::Plain(_) | Placement::Ruled(_) => braces(key),
        };
        if let Some(tag) = own {
            return (tag, Why::HashTag, None);
        }
        for rule in &self.rules {
            if let Some(tag) = rule.pattern.tag(key) {
                return match rule.pinned {
                    None => (tag, Why::Rule(&rule.text), None),
                    Some(shard) => (tag, Why::Pinned(&rule.text), Some(shard)),
                };
            }
        }
        (key, Why::WholeKey, None)
    }
}

impl fmt::Display for Why<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::WholeKey => f.write_str("the whole key is hashed"),
            Self::HashTag => f.write_str("its hash tag"),
            Self::Rule(pattern) => write!(f, "the colocate rule \"{pattern}\""),
            Self::Pinned(pattern) => write!(f, "pinned by the colocate rule \"{pattern}\""),
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// The slot of a tag, as Redis Cluster numbers it.
#[inline]
fn slot(tag: &[u8]) -> Slot {
    Slot(crc16::checksum(tag) % SLOTS as u16)
}

/// Redis Cluster's hash tag: between the first `{` and the next `}`, unless that is nothing.
/// <https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/#hash-tags>
#[inline]
fn braces(key: &[u8]) -> Option<&[u8]> {
    if has_brace(key) { enclosed(key, *b"{}") } else { None }
}

/// Whether there is a `{`: most keys are short and have none, and calling a search costs more than
/// looking at eight bytes at a time, the last eight once more than needed.
#[inline]
fn has_brace(key: &[u8]) -> bool {
    const ONES: u64 = u64::from_ne_bytes([1; 8]);
    // A byte of `differs` is zero where there is a brace; the result is not zero if one is.
    let braces = |eight: &[u8; 8]| {
        let differs = u64::from_ne_bytes(*eight) ^ (ONES * b'{' as u64);
        differs.wrapping_sub(ONES) & !differs & (ONES << 7)
    };
    let Some(last) = key.last_chunk::<8>() else { return key.contains(&b'{') };
    let mut found = braces(last);
    for eight in key.as_chunks::<8>().0 {
        found |= braces(eight);
    }
    found != 0
}

fn enclosed(key: &[u8], [open, close]: [u8; 2]) -> Option<&[u8]> {
    let inside = &key[memchr(open, key)? + 1..];
    match memchr(close, inside)? {
        0 => None,
        end => Some(&inside[..end]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(names: &[&str]) -> Spec {
        let shard = |name: &&str| Shard {
            name: (*name).to_owned(),
            endpoint: Endpoint::Tcp { host: "127.0.0.1".to_owned(), port: 7001 },
            weight: 1,
        };
        Spec { shards: names.iter().map(shard).collect(), home: None, kind: Kind::Slots, colocate: vec![] }
    }

    fn rule(pattern: &str, shard: Option<&str>) -> Colocate {
        Colocate { pattern: pattern.to_owned(), shard: shard.map(str::to_owned) }
    }

    fn slot_is(key: &str, number: u16) {
        let topology = Topology::build(&spec(&["a", "b"]), 1).unwrap();
        assert_eq!(topology.slot_of(key.as_bytes()), Some(Slot(number)), "{key}");
    }

    #[test]
    fn slots_are_those_of_redis_cluster() {
        slot_is("123456789", 12739);
        slot_is("foo", 12182);
        slot_is("bar{foo}", 12182);
        slot_is("{foo}{bar}", 12182);
        slot_is("", 0);
        assert_eq!(braces(b"foo{}{bar}"), None);
        assert_eq!(braces(b"foo{{bar}}"), Some(&b"{bar"[..]));
        assert_eq!(braces(b"foo}{bar"), None);
        assert_eq!(braces(b"foo{bar"), None);
    }

    #[test]
    fn a_tag_in_the_key_wins_then_the_first_rule() {
        let mut spec = spec(&["a", "b", "c"]);
        spec.home = Some("b".to_owned());
        spec.colocate =
            vec![rule("bull:{*}:*", None), rule("bull:*", None), rule("lock:*", Some("home")), rule("*:c", Some("c"))];
        let topology = Topology::build(&spec, 7).unwrap();
        let check = |key: &'static str, tag: &str, why: Why<'static>| {
            let found = topology.locate(key.as_bytes());
            assert_eq!((found.tag, found.why), (tag.as_bytes(), why), "{key}");
            assert_eq!(topology.shard_of(key.as_bytes()), found.shard, "{key}");
            found.shard
        };
        check("bull:mail:1", "mail", Why::Rule("bull:{*}:*"));
        check("bull:mail", "bull:", Why::Rule("bull:*"));
        check("bull:{x}:1", "x", Why::HashTag);
        check("plain", "plain", Why::WholeKey);
        assert_eq!(check("lock:1", "lock:", Why::Pinned("lock:*")), ShardId(1));
        assert_eq!(check("x:c", "", Why::Pinned("*:c")), ShardId(2));
        assert_eq!(topology.slot_of(b"x:c"), None);
        assert_eq!((topology.version(), topology.home()), (7, ShardId(1)));
    }

    #[test]
    fn rules_do_not_move_the_slots() {
        let plain = spec(&["a", "b", "c"]);
        let ruled = Spec { colocate: vec![rule("q:*", None)], ..plain.clone() };
        let (plain, ruled) = (Topology::build(&plain, 1).unwrap(), Topology::build(&ruled, 1).unwrap());
        for slot in (0..SLOTS as u16).map(Slot) {
            assert_eq!(plain.owner(slot), ruled.owner(slot));
        }
    }

    #[test]
    fn what_makes_no_topology() {
        fn check(change: impl FnOnce(&mut Spec), error: &str) {
            let mut spec = spec(&["a", "b"]);
            change(&mut spec);
            assert_eq!(Topology::build(&spec, 1).unwrap_err().to_string(), error);
        }
        check(|s| s.shards.clear(), "there is no shard: at least one is needed");
        check(|s| s.shards[1].weight = 0, "shard 1 (\"b\") has the weight 0: at least 1 is needed");
        check(|s| s.shards[1].name = "a".into(), "shard 1 has the name of an earlier one: \"a\"");
        check(|s| s.home = Some("z".into()), "the home shard is called \"z\", but no shard is");
        check(
            |s| s.shards[0].weight = 400,
            "the weights add up to 64160 points on the ring (160 for each unit): 64000 are the most",
        );
        check(
            |s| s.colocate.push(rule("a*", Some("z"))),
            "colocate rule 0 names the shard \"z\", but no shard is called so",
        );
        check(|s| s.colocate.push(rule("", None)), "colocate rule 0: the pattern must not be empty");
    }
}

//! The placement of twemproxy (nutcracker), byte for byte, to take its data over in place.
//!
//! Its quirks are part of the contract: servers are ordered by the length of their names before
//! the names themselves, "64-bit" FNV keeps 32 bits, CRC32 keeps 15, and bytes from 0x80 on are
//! negative in some hashes (as `char` is on x86). A pool of one server hashes nothing.

use md5::{Digest, Md5};

use super::{Shard, ShardId, crc16::checksum};

/// Ketama's points of a server of average weight, four to one MD5.
const KETAMA_POINTS: f32 = 160.0;

/// The hash functions, by twemproxy's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyHash {
    OneAtATime,
    Md5,
    Crc16,
    Crc32,
    Crc32a,
    Fnv1x64,
    Fnv1ax64,
    Fnv1x32,
    Fnv1ax32,
    Murmur,
}

impl KeyHash {
    /// Every hash with its name.
    pub const ALL: [(&'static str, Self); 10] = [
        ("one_at_a_time", Self::OneAtATime),
        ("md5", Self::Md5),
        ("crc16", Self::Crc16),
        ("crc32", Self::Crc32),
        ("crc32a", Self::Crc32a),
        ("fnv1_64", Self::Fnv1x64),
        ("fnv1a_64", Self::Fnv1ax64),
        ("fnv1_32", Self::Fnv1x32),
        ("fnv1a_32", Self::Fnv1ax32),
        ("murmur", Self::Murmur),
    ];

    /// The hash called `name`; nothing for twemproxy's `hsieh` and `jenkins`, which are not here.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(known, _)| *known == name).map(|(_, hash)| *hash)
    }

    /// The hash of `key`.
    #[must_use]
    pub fn of(self, key: &[u8]) -> u32 {
        match self {
            Self::OneAtATime => one_at_a_time(key),
            Self::Md5 => word(&Md5::digest(key), 0),
            Self::Crc16 => crc16(key),
            Self::Crc32 => (crc32(key) >> 16) & 0x7fff,
            Self::Crc32a => crc32(key),
            // The low half of a product depends on the low halves alone: 32 bits are enough.
            Self::Fnv1x64 => fnv1(key, 0x8422_2325, 0x1b3),
            Self::Fnv1ax64 => fnv1a(key, 0x8422_2325, 0x1b3),
            Self::Fnv1x32 => fnv1(key, 0x811c_9dc5, 0x0100_0193),
            Self::Fnv1ax32 => fnv1a(key, 0x811c_9dc5, 0x0100_0193),
            Self::Murmur => murmur(key),
        }
    }
}

/// A byte as the C code sees it where `char` is signed.
fn signed(byte: u8) -> u32 {
    i32::from(byte.cast_signed()).cast_unsigned()
}

fn fnv1(key: &[u8], start: u32, prime: u32) -> u32 {
    key.iter().fold(start, |hash, byte| hash.wrapping_mul(prime) ^ signed(*byte))
}

fn fnv1a(key: &[u8], start: u32, prime: u32) -> u32 {
    key.iter().fold(start, |hash, byte| (hash ^ signed(*byte)).wrapping_mul(prime))
}

fn one_at_a_time(key: &[u8]) -> u32 {
    let mut hash = key.iter().fold(0u32, |hash, byte| {
        let hash = hash.wrapping_add(signed(*byte));
        let hash = hash.wrapping_add(hash << 10);
        hash ^ (hash >> 6)
    });
    hash = hash.wrapping_add(hash << 3);
    hash ^= hash >> 11;
    hash.wrapping_add(hash << 15)
}

/// Redis Cluster's CRC16 in a register of 32 bits, whose upper half keeps what is shifted out.
fn crc16(key: &[u8]) -> u32 {
    key.iter().fold(0, |crc: u32, byte| (crc << 8) ^ u32::from(checksum(&[(crc >> 8) as u8 ^ byte])))
}

fn crc32(key: &[u8]) -> u32 {
    !key.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ if crc & 1 == 1 { 0xedb8_8320 } else { 0 })
    })
}

/// MurmurHash2 with twemproxy's seed, which is made of the length.
fn murmur(key: &[u8]) -> u32 {
    const M: u32 = 0x5bd1_e995;
    let len = key.len() as u32;
    let (words, rest) = key.as_chunks::<4>();
    let mut hash = words.iter().fold(0xdead_beefu32.wrapping_mul(len) ^ len, |hash, word| {
        let word = u32::from_le_bytes(*word).wrapping_mul(M);
        hash.wrapping_mul(M) ^ (word ^ (word >> 24)).wrapping_mul(M)
    });
    if !rest.is_empty() {
        let tail = rest.iter().rev().fold(0, |tail, byte| (tail << 8) | u32::from(*byte));
        hash = (hash ^ tail).wrapping_mul(M);
    }
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(M);
    hash ^ (hash >> 15)
}

/// Word `index` of an MD5, little-endian.
fn word(digest: &[u8], index: usize) -> u32 {
    digest.iter().skip(index * 4).take(4).rev().fold(0, |word, byte| (word << 8) | u32::from(*byte))
}

/// How a hash becomes a shard.
#[derive(Clone, Debug)]
pub(super) enum Distribution {
    /// Points in ascending order; a hash belongs to the first point that is not below it.
    Ketama(Vec<(u32, ShardId)>),
    /// One entry for each unit of weight; a hash belongs to its remainder's entry.
    Modula(Vec<ShardId>),
}

impl Distribution {
    pub(super) fn ketama(shards: &[Shard]) -> Self {
        let total: u64 = shards.iter().map(|shard| u64::from(shard.weight)).sum();
        let mut points = Vec::new();
        for id in in_order(shards) {
            let shard = &shards[id.0 as usize];
            // twemproxy computes in C's float, whose rounding decides a point more or less.
            let part = shard.weight as f32 / total as f32;
            let hashes = part * KETAMA_POINTS / 4.0 * shards.len() as f32;
            let hashes = ((f64::from(hashes) + 0.000_000_000_1) as f32).floor() as u32;
            for index in 0..hashes {
                let digest = Md5::digest(format!("{}-{index}", shard.name));
                points.extend((0..4).map(|part| (word(&digest, part), id)));
            }
        }
        points.sort_by_key(|(value, _)| *value);
        Self::Ketama(points)
    }

    pub(super) fn modula(shards: &[Shard]) -> Self {
        let entries =
            in_order(shards).into_iter().flat_map(|id| std::iter::repeat_n(id, shards[id.0 as usize].weight as usize));
        Self::Modula(entries.collect())
    }

    /// The shard of a hash. A pool without a point (all weights rounded away) is its first shard.
    pub(super) fn shard(&self, hash: u32) -> ShardId {
        match self {
            Self::Ketama(points) => {
                let next = points.partition_point(|(value, _)| *value < hash);
                points.get(next).or(points.first()).map_or(ShardId(0), |(_, shard)| *shard)
            }
            Self::Modula(entries) => entries[hash as usize % entries.len()],
        }
    }

    /// The part of all hashes that `shard` gets, 0 to 1.
    pub(super) fn share(&self, shard: ShardId) -> f64 {
        match self {
            Self::Ketama(points) => {
                let mut before = points.last().map_or(0, |(value, _)| *value);
                let mut hashes = 0u64;
                for (value, owner) in points {
                    if *owner == shard {
                        hashes += u64::from(value.wrapping_sub(before));
                    }
                    before = *value;
                }
                hashes as f64 / (u64::from(u32::MAX) + 1) as f64
            }
            Self::Modula(entries) => {
                entries.iter().filter(|owner| **owner == shard).count() as f64 / entries.len() as f64
            }
        }
    }
}

/// twemproxy's order of servers: shorter names first, then by their bytes.
fn in_order(shards: &[Shard]) -> Vec<ShardId> {
    let mut order: Vec<ShardId> = (0..shards.len() as u16).map(ShardId).collect();
    order.sort_by_key(|id| {
        let name = shards[id.0 as usize].name.as_bytes();
        (name.len(), name)
    });
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn published_check_values() {
        let check = |name: &str, value: u32| {
            assert_eq!(KeyHash::named(name).unwrap().of(b"123456789"), value, "{name}");
        };
        check("crc32a", 0xcbf4_3926);
        check("crc32", 0xcbf4 & 0x7fff);
        check("fnv1a_32", 0xbb86_b11c);
        check("md5", 0x94e7_f925);
    }

    #[test]
    fn hashes_that_are_not_here_have_no_name() {
        assert_eq!(KeyHash::named("hsieh"), None);
        assert_eq!(KeyHash::named("jenkins"), None);
    }
}

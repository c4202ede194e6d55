//! The keys that SORT's patterns mean: each element of what is sorted stands for the first `*`. Pure.

use std::collections::HashSet;

use super::{COPIES_MAX, Gather};
use crate::engine::waiting::body;
use crate::resp::elements;
use crate::topology::ShardId;

/// Adds what the patterns mean to what is to be copied, and rewrites them so that they mean the
/// copies. All keys of a pattern are copied, also those that are where the command runs.
pub(super) fn expand(gather: &mut Gather, shard_of: impl Fn(&[u8]) -> ShardId) {
    let result = std::mem::take(&mut gather.result);
    let mut known: HashSet<Vec<u8>> = gather.copies.iter().map(|copy| copy.key.clone()).collect();
    for at in std::mem::take(&mut gather.patterns) {
        let pattern = gather.words[at as usize].clone();
        for element in elements(&result).map(body) {
            let Some(key) = meant(&pattern, element) else { break };
            if gather.copies.len() <= COPIES_MAX && known.insert(key.clone()) {
                let shard = shard_of(&key);
                gather.wants(&key, shard);
            }
        }
        gather.words[at as usize] = gather.name(&pattern);
    }
}

/// The key that a pattern means for one element, as Redis reads it; None when it means none.
/// <https://redis.io/docs/latest/commands/sort/>
fn meant(pattern: &[u8], element: &[u8]) -> Option<Vec<u8>> {
    let star = pattern.iter().position(|byte| *byte == b'*')?;
    let (before, after) = (&pattern[..star], &pattern[star + 1..]);
    // `->` names a field of a hash, unless no name follows.
    let arrow = after.windows(2).position(|pair| pair == b"->").filter(|at| at + 2 < after.len());
    Some([before, element, &after[..arrow.unwrap_or(after.len())]].concat())
}

#[cfg(test)]
mod tests {
    use super::meant;

    #[test]
    fn an_element_stands_for_the_first_star() {
        let check = |pattern: &str, key: Option<&str>| {
            let meant = meant(pattern.as_bytes(), b"7");
            assert_eq!(meant.as_deref(), key.map(str::as_bytes), "{pattern}");
        };
        check("w_*", Some("w_7"));
        check("*", Some("7"));
        check("w_*_*", Some("w_7_*"));
        check("h_*->name", Some("h_7"));
        check("h->*x->f", Some("h->7x"));
        check("h_*->", Some("h_7->"));
        check("nosort", None);
        check("#", None);
    }
}

//! Colocation: patterns that keep an application's keys together without `{tags}` in their names.
//!
//! ```text
//! rq:*           every key that begins so; the tag is the literal before the first star
//! bull:{*}:*     the tag is what the braces match: one queue together, queues apart
//! ```
//! Matching is one pass: a wildcard takes as little as it can, and because everything behind it
//! only gains from that, no choice is ever taken back.

use memchr::memmem;

use super::enclosed;

/// A parsed pattern: a literal, then wildcards with the literal behind each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    head: Vec<u8>,
    tail: Vec<(Wild, Vec<u8>)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wild {
    /// `*`: any bytes, or none.
    Any,
    /// `{*}`: at least one byte, and they are the tag.
    Tag,
}

/// A byte of a literal, or a wildcard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token {
    Byte(u8),
    Wild(Wild),
}

/// What is wrong with a pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    #[error("must not be empty")]
    Empty,
    #[error("has {{*}} more than once: only one part of a key can be its tag")]
    TwoTags,
    #[error("ends with a \\ that escapes nothing: write \\\\ for the byte itself")]
    LooseEscape,
    #[error("has no * or {{*}}: it matches one key only, which needs no rule unless `shard` pins it")]
    NoWildcard,
    #[error("has nothing before its first *: begin with a literal, use {{*}}, or pin it with `shard`")]
    NoTag,
}

impl Pattern {
    /// # Errors
    /// The text is no pattern, see [`PatternError`].
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        if text.is_empty() {
            return Err(PatternError::Empty);
        }
        let mut pattern = Self { head: Vec::new(), tail: Vec::new() };
        let mut rest = text.as_bytes();
        while let [byte, after @ ..] = rest {
            rest = after;
            match *byte {
                b'\\' => {
                    let [escaped, after @ ..] = rest else {
                        return Err(PatternError::LooseEscape);
                    };
                    rest = after;
                    pattern.literal().push(*escaped);
                }
                b'*' => pattern.tail.push((Wild::Any, Vec::new())),
                b'{' if rest.starts_with(b"*}") => {
                    rest = &rest[2..];
                    if pattern.names_tag() {
                        return Err(PatternError::TwoTags);
                    }
                    pattern.tail.push((Wild::Tag, Vec::new()));
                }
                other => pattern.literal().push(other),
            }
        }
        Ok(pattern)
    }

    /// That the pattern says by itself which tag its keys get.
    ///
    /// # Errors
    /// It does not, and is of use only when it is pinned to a shard.
    pub fn check_tag(&self) -> Result<(), PatternError> {
        match self.tail.is_empty() {
            true => Err(PatternError::NoWildcard),
            false if self.head.is_empty() && !self.names_tag() => Err(PatternError::NoTag),
            false => Ok(()),
        }
    }

    /// The tag of `key`, when the pattern matches it.
    #[must_use]
    #[inline]
    pub fn tag<'a>(&'a self, key: &'a [u8]) -> Option<&'a [u8]> {
        // Most keys that it does not match begin with another byte already.
        if self.head.first().is_some_and(|byte| key.first() != Some(byte)) {
            return None;
        }
        self.tag_of(key)
    }

    fn tag_of<'a>(&'a self, key: &'a [u8]) -> Option<&'a [u8]> {
        let mut rest = key.strip_prefix(self.head.as_slice())?;
        let mut tag = self.head.as_slice();
        let last = self.tail.len().checked_sub(1);
        for (index, (wild, literal)) in self.tail.iter().enumerate() {
            let least = usize::from(*wild == Wild::Tag);
            let end = if Some(index) == last {
                rest.strip_suffix(literal.as_slice())?.len()
            } else {
                least + memmem::find(rest.get(least..)?, literal)?
            };
            if end < least {
                return None;
            }
            if *wild == Wild::Tag {
                tag = &rest[..end];
            }
            rest = &rest[end + literal.len()..];
        }
        rest.is_empty().then_some(tag)
    }

    /// Whether every key that it matches has a hash tag between this pair of bytes. Only what stands before
    /// the first wildcard tells: behind one, there may be another brace in it.
    #[must_use]
    pub fn is_tagged(&self, pair: [u8; 2]) -> bool {
        enclosed(&self.head, pair).is_some()
    }

    /// Whether it matches every key that `other` matches: its wildcards take the other's wildcards and
    /// literals, and its literals are the other's. Where this says no it may yet be so.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        if !other.head.starts_with(&self.head) {
            return false;
        }
        let theirs: Vec<Token> = other.tokens().collect();
        let ours: Vec<Token> = self.tokens().collect();
        let end = theirs.len();
        // Whether what is left of ours covers theirs from an index on; at first nothing is left.
        let mut rest = vec![false; end + 1];
        rest[end] = true;
        for token in ours.into_iter().rev() {
            let mut row = vec![false; end + 1];
            // Whether the rest covers theirs from this index on, or from any later one.
            let mut later = false;
            for at in (0..=end).rev() {
                row[at] = match (token, theirs.get(at)) {
                    (Token::Byte(_), their) => their == Some(&token) && rest[at + 1],
                    (Token::Wild(Wild::Any), _) => later || rest[at],
                    (Token::Wild(Wild::Tag), None) => false,
                    // It may be empty, and so is not yet the one byte that is needed.
                    (Token::Wild(Wild::Tag), Some(Token::Wild(Wild::Any))) => row[at + 1],
                    (Token::Wild(Wild::Tag), Some(_)) => later,
                };
                later |= rest[at];
            }
            rest = row;
        }
        rest[0]
    }

    fn tokens(&self) -> impl Iterator<Item = Token> {
        let bytes = |literal: &[u8]| literal.iter().copied().map(Token::Byte).collect::<Vec<_>>();
        let tail =
            self.tail.iter().flat_map(move |(wild, literal)| [vec![Token::Wild(*wild)], bytes(literal)].concat());
        bytes(&self.head).into_iter().chain(tail)
    }

    fn literal(&mut self) -> &mut Vec<u8> {
        match self.tail.last_mut() {
            Some((_, literal)) => literal,
            None => &mut self.head,
        }
    }

    fn names_tag(&self) -> bool {
        self.tail.iter().any(|(wild, _)| *wild == Wild::Tag)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(pattern: &str, key: &str, tag: Option<&str>) {
        let parsed = Pattern::parse(pattern).unwrap();
        let found = parsed.tag(key.as_bytes()).map(|tag| String::from_utf8_lossy(tag));
        assert_eq!(found.as_deref(), tag, "{pattern} on {key}");
    }

    #[test]
    fn a_star_takes_anything() {
        check("rq:*", "rq:job:1", Some("rq:"));
        check("rq:*", "rq:", Some("rq:"));
        check("rq:*", "xrq:1", None);
        check("rq:*", "rq", None);
        check("a*b*c", "a-b-c", Some("a"));
        check("a*b*c", "abc", Some("a"));
        check("a*b*c", "abcb", None);
        check("a*b*c", "a-c-b", None);
        check("a**c", "ac", Some("a"));
        check("a*ab", "ab", None);
        check("*.lock", "x.lock", Some(""));
    }

    #[test]
    fn braces_take_the_shortest_that_is_not_empty() {
        check("bull:{*}:*", "bull:mail:1", Some("mail"));
        check("bull:{*}:*", "bull:mail:1:logs", Some("mail"));
        check("bull:{*}:*", "bull:mail:", Some("mail"));
        check("bull:{*}:*", "bull:mail", None);
        check("bull:{*}:*", "bull::x:y", Some(":x"));
        check("bull:{*}:*", "bull::", None);
        check("q:{*}", "q:a:b", Some("a:b"));
        check("q:{*}", "q:", None);
        check("{*}:meta", "a:meta:meta", Some("a:meta"));
        check("*:{*}:*", "a:b:c:d", Some("b"));
        check("*{*}", "abc", Some("abc"));
        check("{*}*", "abc", Some("a"));
    }

    #[test]
    fn nothing_else_is_special() {
        check("a?[b]*", "a?[b]c", Some("a?[b]"));
        check("a{b}*", "a{b}c", Some("a{b}"));
        check("a{*b*", "a{xb", Some("a{"));
        check(r"a\**", "a*b", Some("a*"));
        check(r"a\**", "axb", None);
        check(r"a\{*}:*", "a{x}:y", Some("a{"));
        check(r"a\\*", r"a\b", Some(r"a\"));
        check(r"\a*", "ab", Some("a"));
        check("lock", "lock", Some("lock"));
        check("lock", "locks", None);
    }

    #[test]
    fn one_covers_another() {
        let check = |pattern: &str, other: &str, covers| {
            let (one, two) = (Pattern::parse(pattern).unwrap(), Pattern::parse(other).unwrap());
            assert_eq!(one.covers(&two), covers, "{pattern} covers {other}");
        };
        check("a:*", "a:*", true);
        check("a:*", "a:{*}:*", true);
        check("a:*", "a:b*", true);
        check("a:*", "a:", true);
        check("a:*", "a", false);
        check("a:{*}:*", "a:*", false);
        check("a:{*}:*", "a:b:*", true);
        check("a:{*}:*", "a:{*}:c", true);
        check("a:{*}:*", "a:*:*", false);
        check("a:{*}", "a:*b", true);
        check("a:{*}", "a:", false);
        check("*b*", "a*bc*", true);
        check("*b*", "a*", false);
        check("*", "x{*}y", true);
        check("lock", "lock", true);
        check("lock", "lock*", false);
        check(r"a\*", "a*", false);
    }

    #[test]
    fn tagged_in_every_key() {
        let check = |pattern: &str, is| {
            assert_eq!(Pattern::parse(pattern).unwrap().is_tagged(*b"{}"), is, "{pattern}");
        };
        check("{tag}:*", true);
        check("a{tag}:*", true);
        check("a{}{tag}:*", false);
        check("{tag:*", false);
        check("a:*:{tag}", false);
        check("a:{*}", false);
    }

    proptest::proptest! {
        #[test]
        fn what_is_covered_matches(one in "[ab*]{0,2}([*]|[{][*][}])[ab*]{0,3}", two in "[ab*]{0,2}([*]|[{][*][}])[ab*]{0,3}", key in "[abc]{0,8}") {
            let (one, two) = (Pattern::parse(&one).unwrap(), Pattern::parse(&two).unwrap());
            if one.covers(&two) && two.tag(key.as_bytes()).is_some() {
                proptest::prop_assert!(one.tag(key.as_bytes()).is_some());
            }
        }
    }

    #[test]
    fn what_is_no_pattern() {
        assert_eq!(Pattern::parse(""), Err(PatternError::Empty));
        assert_eq!(Pattern::parse("a\\"), Err(PatternError::LooseEscape));
        assert_eq!(Pattern::parse("{*}:{*}"), Err(PatternError::TwoTags));
        let tag = |text| Pattern::parse(text).unwrap().check_tag();
        assert_eq!(tag("lock"), Err(PatternError::NoWildcard));
        assert_eq!(tag("*:lock"), Err(PatternError::NoTag));
        assert_eq!(tag("*{*}"), Ok(()));
        assert_eq!(tag("a*"), Ok(()));
    }
}

//! The shape of a key: its parts, with numbers and ids folded, written as a pattern that matches it.
//!
//! ```text
//! user:17:cart     user:*:cart        job-550e8400-e29b-41d4-a716-446655440000     job-*
//! ```

/// Longer shapes are cut.
pub(super) const SHAPE_BYTES_MAX: usize = 96;
/// Parts that are looked at; the last one then holds the rest.
const PARTS_MAX: usize = 12;
/// What separates the parts of a key.
const SEPARATORS: &[u8] = b":./|";
/// The length of a UUID, and where its hyphens are.
const UUID: (usize, [usize; 4]) = (36, [8, 13, 18, 23]);

/// A part of a key, and the separator before it.
pub(super) type Part<'a> = (Option<u8>, &'a [u8]);

/// The parts of a key, each with the separator before it.
pub(super) fn parts(key: &[u8]) -> Vec<Part<'_>> {
    let mut parts = Vec::new();
    let (mut separator, mut rest) = (None, key);
    while parts.len() + 1 < PARTS_MAX
        && let Some(at) = rest.iter().position(|byte| SEPARATORS.contains(byte))
    {
        split_id(&mut parts, separator, &rest[..at]);
        separator = Some(rest[at]);
        rest = &rest[at + 1..];
    }
    split_id(&mut parts, separator, rest);
    parts
}

/// An id behind a word, as in `session-550e8400-...`, is a part of its own.
fn split_id<'a>(parts: &mut Vec<Part<'a>>, separator: Option<u8>, part: &'a [u8]) {
    match part.len().checked_sub(UUID.0) {
        Some(at) if at > 0 && is_uuid(&part[at..]) => {
            parts.push((separator, &part[..at]));
            parts.push((None, &part[at..]));
        }
        _ => parts.push((separator, part)),
    }
}

fn is_uuid(text: &[u8]) -> bool {
    let fits = |(at, byte): (usize, &u8)| match UUID.1.contains(&at) {
        true => *byte == b'-',
        false => byte.is_ascii_hexdigit(),
    };
    text.len() == UUID.0 && text.iter().enumerate().all(fits)
}

/// A key with its numbers and ids folded: a pattern that matches it, as a rule is written.
pub(super) fn shape(parts: &[Part<'_>]) -> String {
    let mut shape = String::new();
    for (separator, part) in parts {
        push(&mut shape, *separator, &fold(part));
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

/// A pattern for keys like these parts, whose tag is the part at `at`.
pub(super) fn tag_pattern(parts: &[Part<'_>], at: usize) -> String {
    let mut pattern = String::new();
    for (separator, part) in &parts[..at] {
        push(&mut pattern, *separator, &fold(part));
    }
    push(&mut pattern, parts[at].0, "{*}");
    // What follows may be anything where the beginning says enough, and a separator ends the tag.
    if says_something(&pattern)
        && let Some((Some(separator), _)) = parts.get(at + 1)
    {
        push(&mut pattern, Some(*separator), "*");
        return pattern;
    }
    for (separator, part) in &parts[at + 1..] {
        push(&mut pattern, *separator, &fold(part));
    }
    pattern
}

/// Whether a pattern tells some keys from the others, and not only by their separators.
pub(super) fn says_something(pattern: &str) -> bool {
    pattern.replace("{*}", "").bytes().any(|byte| byte != b'*' && !SEPARATORS.contains(&byte))
}

/// Bytes of a pattern that are no wildcards: the more, the narrower.
pub(super) fn literals(pattern: &str) -> usize {
    pattern.replace("{*}", "").bytes().filter(|byte| *byte != b'*').count()
}

pub(super) fn push(pattern: &mut String, separator: Option<u8>, part: &str) {
    pattern.extend(separator.map(char::from));
    pattern.push_str(part);
}

/// One part: numbers become `*`, and the whole part does when it looks like an id.
pub(super) fn fold(part: &[u8]) -> String {
    if !is_folded(part) {
        return escaped(part);
    }
    let digits = part.iter().filter(|byte| byte.is_ascii_digit()).count();
    let hex = part.iter().all(|byte| byte.is_ascii_hexdigit() || *byte == b'-');
    let word = part.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'));
    let id = digits > 0 && (hex && part.len() >= 8 || word && part.len() >= 16 && digits >= 3);
    if id || is_unspeakable(part) {
        return "*".to_owned();
    }
    let words: Vec<&[u8]> = part.chunk_by(|a, b| a.is_ascii_digit() == b.is_ascii_digit()).collect();
    words.iter().map(|word| if word[0].is_ascii_digit() { "*".to_owned() } else { escaped(word) }).collect()
}

/// Whether something of the part is not shown.
pub(super) fn is_folded(part: &[u8]) -> bool {
    part.iter().any(u8::is_ascii_digit) || is_unspeakable(part)
}

/// What is no text, and somebody's address.
fn is_unspeakable(part: &[u8]) -> bool {
    part.contains(&b'@') || std::str::from_utf8(part).map_or(true, |text| text.contains(char::is_control))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::Pattern;

    fn folds(key: &str, expected: &str) {
        let found = shape(&parts(key.as_bytes()));
        assert_eq!(found, expected, "{key}");
        if !found.is_empty() {
            let pattern = Pattern::parse(&found).expect("a pattern");
            assert!(pattern.tag(key.as_bytes()).is_some(), "{found} matches {key}");
        }
    }

    #[test]
    fn numbers_and_ids_are_folded() {
        folds("user:17:cart", "user:*:cart");
        folds("job17", "job*");
        folds("s:550e8400-e29b-41d4-a716-446655440000:x", "s:*:x");
        folds("session-550e8400-e29b-41d4-a716-446655440000.j", "session-*.j");
        folds("s:deadbeef01", "s:*");
        folds("s:facade", "s:facade");
        folds("s:V1StGXR8_Z5jdHi6B-myT", "s:*");
        folds("mail:ada@example.com", "mail:*.com");
        folds("a*b", "a\\*b");
        folds("a\\b", "a\\\\b");
        folds("a{*}b", "a\\{\\*}b");
        folds("1:2:3:4:5:6:7:8:9:10:11:12:13:14", "*:*:*:*:*:*:*:*:*:*:*:*:*:*");
        folds("", "");
        assert_eq!(shape(&parts(b"a:\xff\xfe:b")), "a:*:b");
        folds(&"x".repeat(500), &("x".repeat(SHAPE_BYTES_MAX) + "*"));
        let stars = shape(&parts(&[b'*'; 500]));
        assert!(stars.len() <= SHAPE_BYTES_MAX + 1 && Pattern::parse(&stars).is_ok(), "{stars}");
    }
}

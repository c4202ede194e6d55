//! Redis' patterns for channels: `*`, `?`, `[a-z]`, `[^x]` and `\`, byte by byte, quirks included.

/// Whether `pattern` matches all of `text`.
pub(super) fn matches(pattern: &[u8], text: &[u8]) -> bool {
    // Redis looks at nothing, not even a star, when there is no text.
    if text.is_empty() {
        return pattern.is_empty();
    }
    let (mut p, mut t) = (0, 0);
    // The last star, and the first byte that it does not take: earlier ones need no second try.
    let mut star = None;
    while t < text.len() {
        if pattern.get(p) == Some(&b'*') {
            p += 1;
            star = Some((p, t));
        } else if let Some(len) = element(&pattern[p..], text[t]) {
            p += len;
            t += 1;
        } else if let Some((behind, end)) = star {
            (p, t) = (behind, end + 1);
            star = Some((p, t));
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|byte| *byte == b'*')
}

/// The length of the pattern's first element, if it is one that matches `byte`.
fn element(pattern: &[u8], byte: u8) -> Option<usize> {
    match pattern {
        [] => None,
        [b'?', ..] => Some(1),
        [b'[', class @ ..] => class_matches(class, byte).map(|len| 1 + len),
        [b'\\', escaped, ..] => (*escaped == byte).then_some(2),
        [plain, ..] => (*plain == byte).then_some(1),
    }
}

/// The length of the class behind its `[`, if it matches. One without an end takes the whole pattern.
fn class_matches(class: &[u8], byte: u8) -> Option<usize> {
    let negated = class.first() == Some(&b'^');
    let mut at = usize::from(negated);
    let mut found = false;
    loop {
        match &class[at..] {
            [] => break,
            [b'\\', escaped, ..] => {
                found |= *escaped == byte;
                at += 2;
            }
            [b']', ..] => {
                at += 1;
                break;
            }
            [a, b'-', b, ..] => {
                found |= (*a.min(b)..=*a.max(b)).contains(&byte);
                at += 3;
            }
            [plain, ..] => {
                found |= *plain == byte;
                at += 1;
            }
        }
    }
    (found != negated).then_some(at)
}

#[cfg(test)]
mod tests {
    use super::matches;

    fn check(pattern: &str, yes: &[&str], no: &[&str]) {
        for text in yes {
            assert!(matches(pattern.as_bytes(), text.as_bytes()), "{pattern} matches {text:?}");
        }
        for text in no {
            assert!(!matches(pattern.as_bytes(), text.as_bytes()), "{pattern} does not match {text:?}");
        }
    }

    #[test]
    fn patterns_match_as_in_redis() {
        check("", &[""], &["a"]);
        check("*", &["a", "abc", "*"], &[""]);
        check("h?llo", &["hello", "hallo"], &["hllo", "heello"]);
        check("h*llo", &["hllo", "heeeello"], &["hell", "hllox"]);
        check("a**", &["a", "ab"], &["", "ba"]);
        check("*a*b", &["ab", "xaxb", "aabb"], &["ba", "a"]);
        check("__key*__:*", &["__keyspace@0__:k", "__keyevent@0__:"], &["__key", "keyspace"]);
        check("news.[^a-c]", &["news.d", "news.-"], &["news.a", "news.b", "news."]);
        check("[z-a]", &["m"], &["M", "mm"]);
        check("[\\]x]", &["]", "x"], &["\\", "y"]);
        check("[]x]", &[], &["]", "x", "x]", "]x]"]);
        check("[ab", &["a", "b"], &["c", "[ab", "ab"]);
        check("[^", &["a"], &["ab"]);
        check("[", &[], &["[", "a"]);
        check("[a-]", &["a", "^", "_"], &["b", "-"]);
        check("\\*", &["*"], &["a", "\\*"]);
        check("a\\", &["a\\"], &["a"]);
        check("\\", &["\\"], &["a"]);
    }

    #[test]
    fn many_stars_cost_no_time() {
        let pattern = "a*".repeat(60) + "b";
        check(&pattern, &[], &[&"a".repeat(4000)]);
    }
}

//! Inline commands: a line of words, with the quotes and escapes that Redis allows (`sdssplitargs`).

use super::ProtocolError;

/// The words of `line`, which may end with CR LF.
///
/// # Errors
/// A quote is not closed, or a closing one is not followed by a space.
pub fn split(line: &[u8]) -> Result<Vec<Vec<u8>>, ProtocolError> {
    // Redis reads a C string: a zero byte ends the line.
    let end = line.iter().position(|b| matches!(b, 0 | b'\n')).unwrap_or(line.len());
    let line = line[..end].strip_suffix(b"\r").unwrap_or(&line[..end]);
    let mut words = Vec::new();
    let mut rest = line;
    loop {
        while let [first, tail @ ..] = rest
            && is_space(*first)
        {
            rest = tail;
        }
        if rest.is_empty() {
            return Ok(words);
        }
        let (word, tail) = word(rest)?;
        words.push(word);
        rest = tail;
    }
}

fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | 0x0b | 0x0c | b'\r')
}

fn word(mut rest: &[u8]) -> Result<(Vec<u8>, &[u8]), ProtocolError> {
    let mut word = Vec::new();
    loop {
        match rest {
            [] => return Ok((word, rest)),
            [byte, ..] if is_space(*byte) => return Ok((word, rest)),
            [quote @ (b'"' | b'\''), tail @ ..] => {
                rest = quoted(*quote, tail, &mut word)?;
                return match rest.first() {
                    Some(byte) if !is_space(*byte) => Err(ProtocolError::UnbalancedQuotes),
                    _ => Ok((word, rest)),
                };
            }
            [byte, tail @ ..] => {
                word.push(*byte);
                rest = tail;
            }
        }
    }
}

/// Reads up to the closing `quote` and returns what stands behind it.
fn quoted<'a>(quote: u8, mut rest: &'a [u8], word: &mut Vec<u8>) -> Result<&'a [u8], ProtocolError> {
    loop {
        match rest {
            [] => return Err(ProtocolError::UnbalancedQuotes),
            [byte, tail @ ..] if *byte == quote => return Ok(tail),
            [b'\\', b'x', high, low, tail @ ..]
                if quote == b'"' && high.is_ascii_hexdigit() && low.is_ascii_hexdigit() =>
            {
                word.push(hex(*high) << 4 | hex(*low));
                rest = tail;
            }
            [b'\\', escaped, tail @ ..] if quote == b'"' => {
                word.push(match escaped {
                    b'n' => b'\n',
                    b'r' => b'\r',
                    b't' => b'\t',
                    b'b' => 0x08,
                    b'a' => 0x07,
                    other => *other,
                });
                rest = tail;
            }
            [b'\\', b'\'', tail @ ..] if quote == b'\'' => {
                word.push(b'\'');
                rest = tail;
            }
            [byte, tail @ ..] => {
                word.push(*byte);
                rest = tail;
            }
        }
    }
}

fn hex(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        b'a'..=b'f' => digit - b'a' + 10,
        _ => digit.wrapping_sub(b'A') + 10,
    }
}

#[cfg(test)]
mod tests {
    use super::split;

    fn check(line: &str, expected: &str) {
        let text = match split(line.as_bytes()) {
            Ok(words) => words.iter().map(|w| String::from_utf8_lossy(w).into_owned()).collect::<Vec<_>>().join("|"),
            Err(error) => error.to_string(),
        };
        assert_eq!(text, expected, "{line:?}");
    }

    #[test]
    fn lines_are_split_as_redis_splits_them() {
        check("PING\r\n", "PING");
        check("  SET  a\tb \n", "SET|a|b");
        check("\r\n", "");
        check("SET a \"b c\"", "SET|a|b c");
        check("SET a 'b \\' c'", "SET|a|b ' c");
        check(r#"SET a "\x41\n\"\q""#, "SET|a|A\n\"q");
        check("SET \"\" ''", "SET||");
        check("SET ab\"cd\"", "SET|abcd");
        check("GET \"a", "unbalanced quotes in request");
        check("GET \"a\"b", "unbalanced quotes in request");
        check("GET 'a", "unbalanced quotes in request");
        check("PING \0 b", "PING");
    }
}

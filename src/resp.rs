//! RESP framing: where a frame ends, where its arguments lie, and how our own frames are built.
//!
//! The scanners are resumable and allocate nothing: they look at every byte of a header once, skip
//! bodies by their length, and never recurse. Nothing here knows commands, shards or sockets.

mod args;
mod build;
mod inline;
mod plain;
mod reply;
mod request;

pub use args::{Args, Span};
pub use build::{Proto, Reply, request};
pub use inline::split as split_inline;
pub use plain::{Plain, plain_reply};
pub use reply::{ReplyError, ReplyScanner, Scanned, elements};
pub use request::{Limits, ProtocolError, RequestScanner, Scan};

/// A decimal integer as Redis reads one: no sign but `-`, no leading zero, nothing else.
#[must_use]
pub fn integer(digits: &[u8]) -> Option<i64> {
    let (negative, digits) = match digits {
        [b'-', rest @ ..] => (true, rest),
        _ => (false, digits),
    };
    match digits {
        [] => return None,
        [b'0'] if !negative => return Some(0),
        [b'0', ..] => return None,
        _ if digits.len() > 19 => return None,
        _ => {}
    }
    let mut value: u64 = 0;
    for byte in digits {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            return None;
        }
        value = value.checked_mul(10)?.checked_add(u64::from(digit))?;
    }
    if negative { 0_i64.checked_sub_unsigned(value) } else { i64::try_from(value).ok() }
}

#[cfg(test)]
mod tests {
    use super::integer;

    #[test]
    fn integers_are_read_as_redis_reads_them() {
        for (text, value) in [
            ("0", Some(0)),
            ("7", Some(7)),
            ("-1", Some(-1)),
            ("9223372036854775807", Some(i64::MAX)),
            ("-9223372036854775808", Some(i64::MIN)),
            ("9223372036854775808", None),
            ("18446744073709551616", None),
            ("", None),
            ("-", None),
            ("-0", None),
            ("03", None),
            ("+3", None),
            ("3 ", None),
            ("3x", None),
        ] {
            assert_eq!(integer(text.as_bytes()), value, "{text:?}");
        }
    }
}

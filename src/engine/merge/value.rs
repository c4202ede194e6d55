//! Reading what servers said: scalars by redis-protocol, aggregates by walking over their elements.
//!
//! Maps are walked because their order is part of the reply, and because nothing that a server
//! sends may decide how deep the stack grows.

use redis_protocol::{resp2, resp3};

use crate::resp::{Proto, elements};

/// A reply that holds no others.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Leaf {
    Integer(i64),
    Double(f64),
    Text(Vec<u8>),
    /// A null, or no leaf at all.
    Null,
}

impl Leaf {
    pub(super) fn of(frame: &[u8], proto: Proto) -> Self {
        if is_aggregate(frame) || frame.first() == Some(&b'|') {
            return Self::Null;
        }
        match proto {
            Proto::Resp2 => Self::of_resp2(frame),
            Proto::Resp3 => Self::of_resp3(frame),
        }
    }

    fn of_resp2(frame: &[u8]) -> Self {
        use resp2::types::OwnedFrame as Frame;
        match resp2::decode::decode(frame) {
            Ok(Some((Frame::Integer(value), _))) => Self::Integer(value),
            Ok(Some((Frame::BulkString(text) | Frame::SimpleString(text), _))) => Self::Text(text),
            _ => Self::Null,
        }
    }

    fn of_resp3(frame: &[u8]) -> Self {
        use resp3::types::OwnedFrame as Frame;
        match resp3::decode::complete::decode(frame) {
            Ok(Some((Frame::Number { data, .. }, _))) => Self::Integer(data),
            Ok(Some((Frame::Double { data, .. }, _))) => Self::Double(data),
            Ok(Some((
                Frame::BlobString { data, .. } | Frame::SimpleString { data, .. } | Frame::VerbatimString { data, .. },
                _,
            ))) => Self::Text(data),
            _ => Self::Null,
        }
    }

    pub(super) fn integer(&self) -> i64 {
        match self {
            Self::Integer(value) => *value,
            _ => 0,
        }
    }

    pub(super) fn into_bytes(self) -> Vec<u8> {
        match self {
            Self::Text(text) => text,
            Self::Integer(value) => value.to_string().into_bytes(),
            Self::Double(value) => value.to_string().into_bytes(),
            Self::Null => Vec::new(),
        }
    }

    pub(super) fn into_text(self) -> String {
        String::from_utf8_lossy(&self.into_bytes()).into_owned()
    }
}

/// A text, whatever kind of string it came as.
pub(super) fn text(frame: &[u8], proto: Proto) -> String {
    Leaf::of(frame, proto).into_text()
}

pub(super) fn is_aggregate(frame: &[u8]) -> bool {
    matches!(frame.first(), Some(b'*' | b'~' | b'>' | b'%'))
}

/// Keys and values of a map, in order; RESP2 writes one as an array.
pub(super) fn pairs(frame: &[u8], proto: Proto) -> Vec<(Vec<u8>, &[u8])> {
    let mut all = elements(frame);
    let mut pairs = Vec::new();
    while let (Some(key), Some(value)) = (all.next(), all.next()) {
        pairs.push((Leaf::of(key, proto).into_bytes(), value));
    }
    pairs
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(proto: Proto, frame: &str, expected: &Leaf) {
        assert_eq!(&Leaf::of(frame.as_bytes(), proto), expected, "{frame:?}");
    }

    #[test]
    fn scalars_are_read_in_both_protocols() {
        let text = |text: &str| Leaf::Text(text.as_bytes().to_vec());
        check(Proto::Resp2, ":-7\r\n", &Leaf::Integer(-7));
        check(Proto::Resp2, "$3\r\na\r\n\r\n", &text("a\r\n"));
        check(Proto::Resp2, "+OK\r\n", &text("OK"));
        check(Proto::Resp2, "$-1\r\n", &Leaf::Null);
        check(Proto::Resp2, "*1\r\n:1\r\n", &Leaf::Null);
        check(Proto::Resp3, ":7\r\n", &Leaf::Integer(7));
        check(Proto::Resp3, ",1.5\r\n", &Leaf::Double(1.5));
        check(Proto::Resp3, "=7\r\ntxt:abc\r\n", &text("abc"));
        check(Proto::Resp3, "=4\r\ntxt:\r\n", &text(""));
        check(Proto::Resp3, "$0\r\n\r\n", &text(""));
        check(Proto::Resp3, "_\r\n", &Leaf::Null);
    }

    #[test]
    fn maps_keep_their_order_and_depth_costs_nothing() {
        let both = [
            (Proto::Resp2, "*4\r\n$1\r\nb\r\n:1\r\n$1\r\na\r\n*0\r\n"),
            (Proto::Resp3, "%2\r\n$1\r\nb\r\n:1\r\n$1\r\na\r\n*0\r\n"),
        ];
        for (proto, map) in both {
            let read = pairs(map.as_bytes(), proto);
            assert_eq!(read, [(b"b".to_vec(), &b":1\r\n"[..]), (b"a".to_vec(), b"*0\r\n")]);
        }
        let deep = [b"*1\r\n".repeat(100_000), b":1\r\n".to_vec()].concat();
        assert_eq!(Leaf::of(&deep, Proto::Resp3), Leaf::Null);
    }
}

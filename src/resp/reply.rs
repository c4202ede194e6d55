//! The reply scanner: where a server's reply ends, RESP2 or RESP3, without looking inside.
//!
//! Nesting is a counter of elements still to come, so a reply of any depth costs no stack and a
//! type that RESP3 adds costs nothing extra.

use memchr::memchr;
use thiserror::Error;

use super::{integer, plain_reply};

/// What the scanner found at the front of the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scanned {
    /// The reply goes on; nothing new can be said before `need` bytes are there.
    Partial {
        need: usize,
    },
    Frame {
        len: usize,
    },
}

/// The server does not speak RESP: the connection cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ReplyError {
    #[error("unknown reply type {0:#04x}")]
    UnknownType(u8),
    #[error("bad length in a reply")]
    BadLength,
    #[error("a reply's line is longer than {LINE_BYTES_MAX} bytes")]
    LineTooLong,
    #[error("a bulk reply does not end with CR LF")]
    BadEnd,
}

/// Error texts and statuses are short; a longer line is no reply of Redis.
const LINE_BYTES_MAX: usize = 1024 * 1024;
/// More than any server sends, little enough that sums cannot overflow.
const COUNT_MAX: i64 = 1 << 40;

/// Remembers where the scan of an incomplete reply stopped.
#[derive(Debug, Default)]
pub struct ReplyScanner {
    pos: usize,
    /// Elements still to come; 0 means that a new reply starts.
    pending: u64,
}

impl ReplyScanner {
    /// No reply is under way: the next byte is a first one.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.pending == 0
    }

    /// Scans the reply at the front of `buf`, which must start at the same byte at every call until
    /// a frame was reported.
    ///
    /// # Errors
    /// The bytes are no reply.
    #[inline]
    pub fn scan(&mut self, buf: &[u8]) -> Result<Scanned, ReplyError> {
        if self.pending == 0
            && let Some(len) = plain_reply(buf)
        {
            return Ok(Scanned::Frame { len });
        }
        self.scan_on(buf)
    }

    /// Any reply, from where the scan stopped.
    fn scan_on(&mut self, buf: &[u8]) -> Result<Scanned, ReplyError> {
        let mut pos = self.pos;
        let mut pending = if self.pending == 0 { 1 } else { self.pending };
        while pending > 0 {
            if let Some(len) = buf.get(pos..).and_then(plain_reply) {
                pos += len;
                pending -= 1;
                continue;
            }
            match element(buf, pos)? {
                Element::Complete { end, children, counts } => {
                    pos = end;
                    pending = pending - u64::from(counts) + children;
                }
                Element::Partial { need } => {
                    *self = Self { pos, pending };
                    return Ok(Scanned::Partial { need });
                }
            }
        }
        *self = Self::default();
        Ok(Scanned::Frame { len: pos })
    }
}

enum Element {
    Partial {
        need: usize,
    },
    /// The element's own bytes end at `end`, and `children` elements follow as part of it. An
    /// attribute does not count: the element that it speaks of is still to come.
    Complete {
        end: usize,
        children: u64,
        counts: bool,
    },
}

#[inline]
fn element(buf: &[u8], pos: usize) -> Result<Element, ReplyError> {
    let Some(&kind) = buf.get(pos) else { return Ok(Element::Partial { need: pos + 1 }) };
    let Some((line, end)) = line(buf, pos)? else { return Ok(Element::Partial { need: buf.len() + 1 }) };
    let whole = |children| Ok(Element::Complete { end, children, counts: true });
    match kind {
        b'+' | b'-' | b':' | b'_' | b'#' | b',' | b'(' => whole(0),
        b'$' | b'=' | b'!' | b'*' | b'~' | b'>' | b'%' | b'|' => {
            let count = integer(line).filter(|n| (-1..=COUNT_MAX).contains(n)).ok_or(ReplyError::BadLength)?;
            let Ok(count) = u64::try_from(count) else { return whole(0) };
            match kind {
                b'$' | b'=' | b'!' => bulk(buf, end, usize::try_from(count).map_err(|_| ReplyError::BadLength)?),
                b'%' => whole(count * 2),
                b'|' => Ok(Element::Complete { end, children: count * 2, counts: false }),
                _ => whole(count),
            }
        }
        other => Err(ReplyError::UnknownType(other)),
    }
}

#[inline]
fn bulk(buf: &[u8], body: usize, len: usize) -> Result<Element, ReplyError> {
    let end = body + len + 2;
    match buf.get(end - 2..end) {
        None => Ok(Element::Partial { need: end }),
        Some(b"\r\n") => Ok(Element::Complete { end, children: 0, counts: true }),
        Some(_) => Err(ReplyError::BadEnd),
    }
}

/// The text behind the type byte at `pos`, and the first byte behind the line.
#[inline]
fn line(buf: &[u8], pos: usize) -> Result<Option<(&[u8], usize)>, ReplyError> {
    let rest = &buf[pos + 1..];
    // The headers of elements are a few digits; calling a search costs more than looking.
    let short = rest.iter().take(8).position(|byte| *byte == b'\r');
    match short.or_else(|| memchr(b'\r', rest)) {
        Some(at) if at + 1 < rest.len() => {
            if rest[at + 1] == b'\n' {
                Ok(Some((&rest[..at], pos + at + 3)))
            } else {
                Err(ReplyError::BadEnd)
            }
        }
        None if rest.len() > LINE_BYTES_MAX => Err(ReplyError::LineTooLong),
        _ => Ok(None),
    }
}

/// The elements of the aggregate at the front of `frame`, a complete reply: one slice of whole
/// bytes each. Empty for anything else, for a null and for nothing.
pub fn elements(frame: &[u8]) -> impl Iterator<Item = &[u8]> {
    let head = frame.first().and_then(|kind| Some((kind, line(frame, 0).ok()??)));
    let (mut pos, mut left) = match head {
        Some((b'*' | b'~' | b'>', (count, end))) => (end, integer(count).unwrap_or(0)),
        Some((b'%', (count, end))) => (end, integer(count).unwrap_or(0) * 2),
        _ => (0, 0),
    };
    std::iter::from_fn(move || {
        if left <= 0 {
            return None;
        }
        left -= 1;
        let rest = frame.get(pos..)?;
        match ReplyScanner::default().scan(rest) {
            Ok(Scanned::Frame { len }) => {
                pos += len;
                Some(&rest[..len])
            }
            _ => None,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(bytes: &str) {
        let bytes = bytes.as_bytes();
        let mut longer = bytes.to_vec();
        longer.extend_from_slice(b"+next\r\n");
        assert_eq!(ReplyScanner::default().scan(&longer), Ok(Scanned::Frame { len: bytes.len() }), "{bytes:?}");
        let mut scanner = ReplyScanner::default();
        for end in 0..bytes.len() {
            match scanner.scan(&bytes[..end]) {
                Ok(Scanned::Partial { need }) => {
                    assert!(need > end && need <= bytes.len(), "{bytes:?} at {end}: {need}");
                }
                other => panic!("{bytes:?} at {end}: {other:?}"),
            }
        }
        assert_eq!(scanner.scan(bytes), Ok(Scanned::Frame { len: bytes.len() }), "{bytes:?} byte by byte");
    }

    #[test]
    fn every_type_ends_where_it_ends_at_every_split() {
        for frame in [
            "+OK\r\n",
            "+\r\n",
            "-ERR some long text that is longer than a cache line would be, by a good bit\r\n",
            ":-12\r\n",
            "$-1\r\n",
            "$0\r\n\r\n",
            "$4\r\n\r\n\r\n\r\n",
            "$12\r\nhello world!\r\n",
            "*0\r\n",
            "*-1\r\n",
            "*2\r\n$1\r\na\r\n*2\r\n:1\r\n*0\r\n",
            "_\r\n",
            "#t\r\n",
            ",3.25\r\n",
            "(3492890328409238509324850943850943825024385\r\n",
            "=7\r\ntxt:abc\r\n",
            "!5\r\nERR x\r\n",
            "%2\r\n+a\r\n:1\r\n+b\r\n*1\r\n:2\r\n",
            "~2\r\n:1\r\n:2\r\n",
            "|1\r\n+ttl\r\n:3\r\n*2\r\n:1\r\n:2\r\n",
            "*2\r\n|1\r\n+ttl\r\n:3\r\n:1\r\n:2\r\n",
            ">2\r\n+message\r\n+x\r\n",
        ] {
            check(frame);
        }
    }

    #[test]
    fn depth_costs_no_stack() {
        let mut frame = b"*1\r\n".repeat(1_000_000);
        frame.extend_from_slice(b":1\r\n");
        let len = frame.len();
        assert_eq!(ReplyScanner::default().scan(&frame), Ok(Scanned::Frame { len }));
    }

    #[test]
    fn garbage_is_refused() {
        for (bytes, error) in [
            ("hello\r\n", ReplyError::UnknownType(b'h')),
            ("$x\r\n", ReplyError::BadLength),
            ("*-2\r\n", ReplyError::BadLength),
            ("$3\r\nabcde", ReplyError::BadEnd),
            ("*1099511627777\r\n", ReplyError::BadLength),
        ] {
            assert_eq!(ReplyScanner::default().scan(bytes.as_bytes()), Err(error), "{bytes:?}");
        }
    }

    #[test]
    fn elements_are_whole_frames() {
        let frame = b"*3\r\n$1\r\na\r\n*1\r\n:1\r\n$-1\r\n";
        let parts: Vec<_> = elements(frame).collect();
        assert_eq!(parts, [&b"$1\r\na\r\n"[..], b"*1\r\n:1\r\n", b"$-1\r\n"]);
        assert_eq!(elements(b"*-1\r\n").count(), 0);
        assert_eq!(elements(b"+OK\r\n").count(), 0);
    }
}

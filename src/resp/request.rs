//! The request scanner: from bytes to "a request ends here and its arguments lie there".
//!
//! ```text
//! *3 CR LF $3 CR LF SET CR LF $1 CR LF k CR LF $5 CR LF value CR LF
//! ^ count  ^ length ^ body (skipped by its length)
//! ```
//!
//! Limits and error texts are those of Redis (`networking.c`, `processMultibulkBuffer`). Like Redis
//! it does not look at what stands where a CR LF should end a body; such a request is reported as
//! not canonical, and whoever forwards it writes it anew.

use memchr::memchr;
use thiserror::Error;

use super::{Span, integer};

/// The longest inline command, and the longest line that may hold a count or a length.
const LINE_BYTES_MAX: usize = 64 * 1024;
/// What a client that has not authenticated yet may send, as in Redis.
const UNAUTHENTICATED_ARGS_MAX: i64 = 10;
const UNAUTHENTICATED_BULK_BYTES_MAX: i64 = 16 * 1024;

/// What a request may measure.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Arguments of one request, the command's name included.
    pub args_max: i64,
    /// Bytes of one argument (`proto-max-bulk-len`).
    pub bulk_bytes_max: i64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { args_max: 1024 * 1024, bulk_bytes_max: 512 * 1024 * 1024 }
    }
}

/// What the scanner found at the front of the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scan {
    /// The frame goes on; nothing new can be said before `need` bytes are there.
    Partial { need: usize },
    /// A request of `len` bytes. Without arguments (`*0`) it asks for nothing.
    Frame { len: usize, canonical: bool },
    /// An inline command: a line of `len` bytes, its end included.
    Inline { len: usize },
}

/// The client does not speak RESP: it gets the text after `ERR Protocol error: ` and is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ProtocolError {
    #[error("too big inline request")]
    InlineTooBig,
    #[error("unbalanced quotes in request")]
    UnbalancedQuotes,
    #[error("too big mbulk count string")]
    CountTooLong,
    #[error("invalid multibulk length")]
    BadCount,
    #[error("unauthenticated multibulk length")]
    UnauthenticatedCount,
    #[error("too big bulk count string")]
    LengthTooLong,
    #[error("expected '$', got '{}'", printable(*.0))]
    ExpectedBulk(u8),
    #[error("invalid bulk length")]
    BadLength,
    #[error("unauthenticated bulk length")]
    UnauthenticatedLength,
    /// The whole request is larger than one connection may hold.
    #[error("request larger than the query buffer limit")]
    RequestTooBig,
}

/// An error reply is one line: Redis writes a space for what would end it.
fn printable(byte: u8) -> char {
    if byte == b'\r' || byte == b'\n' { ' ' } else { byte as char }
}

/// Remembers where the scan of an incomplete request stopped.
#[derive(Debug, Default)]
pub struct RequestScanner {
    /// The next unread header; 0 before the count was read.
    pos: usize,
    /// Arguments still to come.
    left: u32,
    canonical: bool,
}

impl RequestScanner {
    /// No request is under way: the next byte is a first one.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.pos == 0
    }

    /// Scans the request at the front of `buf`, which must start at the same byte at every call
    /// until a frame was reported. `spans` then holds its arguments.
    ///
    /// # Errors
    /// The bytes are no request; the connection cannot go on.
    #[inline]
    pub fn scan(
        &mut self,
        buf: &[u8],
        limits: &Limits,
        authenticated: bool,
        spans: &mut Vec<Span>,
    ) -> Result<Scan, ProtocolError> {
        spans.clear();
        let resumed = self.pos != 0;
        if !resumed
            && authenticated
            && let Some(len) = plain(buf, spans)
        {
            return Ok(Scan::Frame { len, canonical: true });
        }
        self.scan_on(buf, limits, authenticated, spans, resumed)
    }

    /// Any request, from where the scan stopped.
    fn scan_on(
        &mut self,
        buf: &[u8],
        limits: &Limits,
        authenticated: bool,
        spans: &mut Vec<Span>,
        resumed: bool,
    ) -> Result<Scan, ProtocolError> {
        spans.clear();
        let (mut pos, mut left, mut canonical) = (self.pos, self.left, self.canonical);
        if !resumed {
            let Some(first) = buf.first() else { return Ok(Scan::Partial { need: 1 }) };
            if *first != b'*' {
                return inline(buf);
            }
            let Some(line) = number(buf, 0, ProtocolError::CountTooLong)? else {
                return Ok(Scan::Partial { need: buf.len() + 1 });
            };
            let count = line.value.filter(|n| *n <= limits.args_max).ok_or(ProtocolError::BadCount)?;
            if count > UNAUTHENTICATED_ARGS_MAX && !authenticated {
                return Err(ProtocolError::UnauthenticatedCount);
            }
            (pos, canonical) = (line.end, line.canonical);
            left = u32::try_from(count).unwrap_or(0);
        }
        while left > 0 {
            let Some(&mark) = buf.get(pos) else { return Ok(self.stop(pos, left, canonical, pos + 1)) };
            if mark != b'$' && memchr(b'\r', &buf[pos..]).is_some() {
                return Err(ProtocolError::ExpectedBulk(mark));
            }
            let Some(line) = number(buf, pos, ProtocolError::LengthTooLong)? else {
                return Ok(self.stop(pos, left, canonical, buf.len() + 1));
            };
            let len = line.value.filter(|n| (0..=limits.bulk_bytes_max).contains(n)).ok_or(ProtocolError::BadLength)?;
            if len > UNAUTHENTICATED_BULK_BYTES_MAX && !authenticated {
                return Err(ProtocolError::UnauthenticatedLength);
            }
            let body = line.end;
            let end = body + len as usize;
            if u32::try_from(end).is_err() {
                return Err(ProtocolError::RequestTooBig);
            }
            let Some(terminator) = buf.get(end..end + 2) else {
                return Ok(self.stop(pos, left, canonical, end + 2));
            };
            canonical &= line.canonical && terminator == b"\r\n";
            spans.push(Span { start: body as u32, len: len as u32 });
            pos = end + 2;
            left -= 1;
        }
        *self = Self::default();
        if resumed {
            index(buf, pos, spans);
        }
        Ok(Scan::Frame { len: pos, canonical })
    }

    fn stop(&mut self, pos: usize, left: u32, canonical: bool, need: usize) -> Scan {
        *self = Self { pos, left, canonical };
        Scan::Partial { need }
    }
}

/// The length of a request as nearly all are: complete, canonical, with up to 99 arguments of up to 99
/// bytes. None says nothing: any other request is looked at with care.
#[inline]
fn plain(buf: &[u8], spans: &mut Vec<Span>) -> Option<usize> {
    let (count, mut pos) = match buf {
        [b'*', ones @ b'1'..=b'9', b'\r', b'\n', ..] => (ones - b'0', 4),
        [b'*', tens @ b'1'..=b'9', ones @ b'0'..=b'9', b'\r', b'\n', ..] => ((tens - b'0') * 10 + (ones - b'0'), 5),
        _ => return None,
    };
    for _ in 0..count {
        let (len, body) = match buf.get(pos..pos + 5)? {
            [b'$', ones @ b'0'..=b'9', b'\r', b'\n', _] => ((ones - b'0') as usize, pos + 4),
            [b'$', tens @ b'1'..=b'9', ones @ b'0'..=b'9', b'\r', b'\n'] => {
                ((tens - b'0') as usize * 10 + (ones - b'0') as usize, pos + 5)
            }
            _ => return None,
        };
        let end = body + len;
        if buf.get(end..end + 2)? != b"\r\n" {
            return None;
        }
        spans.push(Span { start: body as u32, len: len as u32 });
        pos = end + 2;
    }
    Some(pos)
}

/// Finds the arguments of a complete frame of `len` bytes that was scanned in several steps: once
/// per frame, header by header.
fn index(buf: &[u8], len: usize, spans: &mut Vec<Span>) {
    spans.clear();
    let line = |pos| number(buf, pos, ProtocolError::BadLength).ok().flatten();
    let Some(count) = line(0) else { return };
    let mut pos = count.end;
    while pos < len {
        let Some(header) = line(pos) else { return };
        let body = header.value.unwrap_or(0) as usize;
        spans.push(Span { start: header.end as u32, len: body as u32 });
        pos = header.end + body + 2;
    }
}

fn inline(buf: &[u8]) -> Result<Scan, ProtocolError> {
    match memchr(b'\n', buf) {
        Some(at) => Ok(Scan::Inline { len: at + 1 }),
        None if buf.len() > LINE_BYTES_MAX => Err(ProtocolError::InlineTooBig),
        None => Ok(Scan::Partial { need: buf.len() + 1 }),
    }
}

/// A line `<mark><number> CR LF`.
struct Line {
    /// None: the line is complete but holds no number.
    value: Option<i64>,
    /// The first byte behind the line.
    end: usize,
    canonical: bool,
}

/// Reads the number behind the mark at `pos`; None while its line is incomplete.
fn number(buf: &[u8], pos: usize, too_long: ProtocolError) -> Result<Option<Line>, ProtocolError> {
    let rest = &buf[pos..];
    let Some(at) = memchr(b'\r', rest) else {
        return if rest.len() > LINE_BYTES_MAX { Err(too_long) } else { Ok(None) };
    };
    let Some(newline) = rest.get(at + 1) else { return Ok(None) };
    let value = integer(rest.get(1..at).unwrap_or(&[]));
    Ok(Some(Line { value, end: pos + at + 2, canonical: *newline == b'\n' }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resp::Args;

    /// What a scan of `bytes` says, fed in pieces that end at `cuts`; arguments joined by `|`.
    fn scanned(bytes: &[u8], cuts: &[usize]) -> String {
        let (mut scanner, mut spans) = (RequestScanner::default(), Vec::new());
        for end in cuts.iter().copied().chain([bytes.len()]) {
            match scanner.scan(&bytes[..end], &Limits::default(), true, &mut spans) {
                Ok(Scan::Partial { need }) => assert!(need > end, "needs {need} but has {end}"),
                Ok(Scan::Frame { len, canonical }) => {
                    let args: Vec<_> = Args::new(bytes, &spans).iter().map(String::from_utf8_lossy).collect();
                    return format!("{len}{} {}", if canonical { "" } else { "~" }, args.join("|"));
                }
                Ok(Scan::Inline { len }) => return format!("inline {len}"),
                Err(error) => return error.to_string(),
            }
        }
        "partial".to_owned()
    }

    fn check(bytes: &str, expected: &str) {
        let bytes = bytes.as_bytes();
        assert_eq!(scanned(bytes, &[]), expected, "{bytes:?} whole");
        for cut in 0..bytes.len() {
            assert_eq!(scanned(bytes, &[cut]), expected, "{bytes:?} cut at {cut}");
        }
        let each: Vec<_> = (0..bytes.len()).collect();
        assert_eq!(scanned(bytes, &each), expected, "{bytes:?} byte by byte");
    }

    #[test]
    fn frames_are_found_at_every_split() {
        check("*1\r\n$4\r\nPING\r\n", "14 PING");
        check("*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$0\r\n\r\n", "26 SET|k|");
        check("*2\r\n$3\r\nGET\r\n$12\r\nabcdefghijkl\r\n", "32 GET|abcdefghijkl");
        check("*2\r\n$3\r\nGET\r\n$4\r\n\r\n\r\n\r\n", "23 GET|\r\n\r\n");
        check("*0\r\n", "4 ");
        check("*-5\r\n", "5 ");
        check("*2\r\n$3\r\nGET\r\n$1\r\n", "partial");
        check("PING\r\n", "inline 6");
        check("\r\n", "inline 2");
        check("GET a", "partial");
    }

    #[test]
    fn what_redis_tolerates_is_not_canonical() {
        check("*1\r\n$4\r\nPINGxx", "14~ PING");
        check("*1\rx$4\r\nPING\r\n", "14~ PING");
        check("*2\r\n$4\ryPING\r\n$1\r\na\r\n", "21~ PING|a");
    }

    #[test]
    fn errors_are_those_of_redis() {
        check("*x\r\n", "invalid multibulk length");
        check("*03\r\n", "invalid multibulk length");
        check("*1048577\r\n", "invalid multibulk length");
        check("*1\r\n+PING\r\n", "expected '$', got '+'");
        check("*2\r\n$3\r\nGET\r\n\r\n", "expected '$', got ' '");
        check("*1\r\n$-1\r\n", "invalid bulk length");
        check("*1\r\n$536870913\r\n", "invalid bulk length");
        check("*1\r\n$\r\n", "invalid bulk length");
        for (start, expected) in [
            ("*", "too big mbulk count string"),
            ("*1\r\n$", "too big bulk count string"),
            ("a", "too big inline request"),
        ] {
            let long = format!("{start}{}", "1".repeat(LINE_BYTES_MAX + 1));
            assert_eq!(scanned(long.as_bytes(), &[]), expected);
        }
    }

    #[test]
    fn strangers_may_send_little() {
        let scan = |bytes: &[u8]| {
            RequestScanner::default().scan(bytes, &Limits::default(), false, &mut Vec::new()).map_err(|e| e.to_string())
        };
        assert_eq!(scan(b"*11\r\n"), Err("unauthenticated multibulk length".to_owned()));
        assert_eq!(scan(b"*1\r\n$16385\r\n"), Err("unauthenticated bulk length".to_owned()));
        assert_eq!(scan(b"*1\r\n$4\r\nPING\r\n"), Ok(Scan::Frame { len: 14, canonical: true }));
    }
}

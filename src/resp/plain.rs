//! Frames as nearly all are, small and written the one way in which libraries write them, read eight
//! bytes at a time. Nothing is said of any other: the scanners look at those with care, and would say
//! the same of these.
//!
//! ```text
//! *3 CR LF $3 CR LF | SET CR LF $2 0 CR | ...      count and length of the name are one word
//! ```
//! A header is told by taking out of a word what has to be in it: nothing but the values of digits may
//! be left, which one comparison sees.

/// A request with a key right behind its name, with at most nine arguments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plain<'a> {
    /// Bytes of the whole request.
    pub len: usize,
    /// Arguments, the name included.
    pub count: usize,
    /// The name's bytes, at most eight; the first one is the lowest, and behind the last are zeros.
    pub name: u64,
    pub key: &'a [u8],
}

impl<'a> Plain<'a> {
    /// The request at the front of `buf`, if it is such a one and complete.
    #[must_use]
    #[inline(always)]
    pub fn of(buf: &'a [u8]) -> Option<Self> {
        const DIGITS: u64 = u64::from_le_bytes([0, 0xf, 0, 0, 0, 0xf, 0, 0]);
        const ABOVE_NINE: u64 = u64::from_le_bytes([0, 6, 0, 0, 0, 6, 0, 0]);
        const CARRIES: u64 = u64::from_le_bytes([0, 0x10, 0, 0, 0, 0x10, 0, 0]);
        let head = word(buf, 0)? ^ u64::from_le_bytes(*b"*0\r\n$0\r\n");
        if head & !DIGITS != 0 || (head + ABOVE_NINE) & CARRIES != 0 {
            return None;
        }
        let (count, name_len) = ((head >> 8 & 0xf) as usize, (head >> 40) as usize);
        if count < 2 || !(1..=8).contains(&name_len) {
            return None;
        }
        let name = word(buf, 8)? & u64::MAX >> (64 - 8 * name_len);
        let (len, body) = argument(buf, 8 + name_len)?;
        let mut end = body + len;
        let key = buf.get(body..end)?;
        for _ in 2..count {
            let (len, body) = argument(buf, end)?;
            end = body + len;
        }
        (buf.get(end..end + 2)? == b"\r\n").then_some(Self { len: end + 2, count, name, key })
    }
}

/// The length of the reply at the front of `buf`, if it is a complete bulk string, a short line or a
/// null.
#[inline(always)]
pub fn plain_reply(buf: &[u8]) -> Option<usize> {
    let end = match buf.first()? {
        b'$' => match bulk(buf) {
            Some((len, body)) => body + len,
            None if buf.starts_with(b"$-1") => 3,
            None => return None,
        },
        b'+' if buf.starts_with(b"+OK\r") => 3,
        b'+' | b':' => 1 + buf[1..].iter().take(20).position(|byte| *byte == b'\r')?,
        b'_' => 1,
        _ => return None,
    };
    (buf.get(end..end + 2)? == b"\r\n").then_some(end + 2)
}

/// Length and place of the argument behind the one that ends at `end`.
#[inline(always)]
fn argument(buf: &[u8], end: usize) -> Option<(usize, usize)> {
    // A complete request goes on for eight bytes at least: two line ends, a mark, a digit, two line ends.
    let word = word(buf, end)?;
    let one = ((word ^ u64::from_le_bytes(*b"\r\n$0\r\n\0\0")) << 16).rotate_right(40);
    if one <= 9 {
        return Some((one as usize, end + 6));
    }
    let two = ((word ^ u64::from_le_bytes(*b"\r\n$00\r\n\0")) << 8).rotate_right(32);
    if let Some(len) = two_digits(two) {
        return Some((len, end + 7));
    }
    (buf.get(end..end + 3)? == b"\r\n$").then(|| long(buf, end + 3))?
}

/// Length and place of the bulk string at the front of `buf`.
#[inline(always)]
fn bulk(buf: &[u8]) -> Option<(usize, usize)> {
    let word = word(buf, 0).unwrap_or_else(|| padded(buf));
    let one = ((word ^ u64::from_le_bytes(*b"$0\r\n\0\0\0\0")) << 32).rotate_right(40);
    if one <= 9 {
        return Some((one as usize, 4));
    }
    let two = ((word ^ u64::from_le_bytes(*b"$00\r\n\0\0\0")) << 24).rotate_right(32);
    match two_digits(two) {
        Some(len) => Some((len, 5)),
        None => long(buf, 1),
    }
}

/// The number whose tens are the lowest byte and whose ones the next, with nothing above.
#[inline(always)]
fn two_digits(two: u64) -> Option<usize> {
    let (tens, ones) = (two & 0xff, two >> 8);
    ((1..=9).contains(&tens) && ones <= 9).then_some((tens * 10 + ones) as usize)
}

/// The number of three to five digits at `pos`, and where its line ends.
#[inline(never)]
fn long(buf: &[u8], pos: usize) -> Option<(usize, usize)> {
    let line = buf.get(pos..)?;
    let digits = line.iter().take(5).take_while(|byte| byte.is_ascii_digit()).count();
    let plain = digits >= 3 && line[0] != b'0' && line[digits..].starts_with(b"\r\n");
    let number = line[..digits].iter().fold(0, |number, digit| number * 10 + usize::from(digit - b'0'));
    plain.then_some((number, pos + digits + 2))
}

#[inline(always)]
fn word(buf: &[u8], pos: usize) -> Option<u64> {
    buf.get(pos..)?.first_chunk().map(|eight| u64::from_le_bytes(*eight))
}

/// The last bytes of a buffer, fewer than eight, and zeros.
#[inline(never)]
fn padded(rest: &[u8]) -> u64 {
    rest.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resp::{Args, Limits, ReplyScanner, RequestScanner, Scan, Scanned, request};

    /// What the careful scanner says, where there is a key and the rest is small.
    fn carefully(buf: &[u8]) -> Option<(usize, usize, Vec<u8>, Vec<u8>)> {
        let mut spans = Vec::new();
        let scan = RequestScanner::default().scan(buf, &Limits::default(), true, &mut spans);
        let Ok(Scan::Frame { len, canonical: true }) = scan else { return None };
        let args = Args::new(buf, &spans);
        let small = (2..=9).contains(&args.len()) && (1..=8).contains(&args.at(0).len());
        (small && args.iter().all(|arg| arg.len() < 100_000)).then(|| {
            let name = args.at(0).to_vec();
            (len, args.len(), name, args.at(1).to_vec())
        })
    }

    fn check(buf: &[u8]) {
        let plain = Plain::of(buf).map(|plain| {
            let name = plain.name.to_le_bytes();
            let name_len = name.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
            (plain.len, plain.count, name[..name_len].to_vec(), plain.key.to_vec())
        });
        let careful = carefully(buf);
        // A name that ends in a zero byte is no command's.
        if careful.as_ref().is_none_or(|(_, _, name, _)| name.last() != Some(&0)) {
            assert_eq!(plain, careful, "{}", buf.escape_ascii());
        }
        let careful = match ReplyScanner::default().scan(buf) {
            Ok(Scanned::Frame { len }) => Some(len),
            _ => None,
        };
        let plain = plain_reply(buf);
        assert!(plain.is_none() || plain == careful, "{}: {plain:?}, {careful:?}", buf.escape_ascii());
    }

    /// The frame cut at every place, and with any byte of its first ones changed to any other.
    fn check_all(frame: &[u8]) {
        for end in 0..=frame.len().min(60) {
            check(&frame[..end]);
        }
        for at in 0..frame.len().min(40) {
            for byte in 0..=u8::MAX {
                let mut frame = frame.to_vec();
                frame[at] = byte;
                check(&frame);
            }
        }
    }

    #[test]
    fn plain_requests_are_what_the_scanner_says() {
        let value = |len| "v".repeat(len);
        for words in [
            &["GET", "k"][..],
            &["GET", ""],
            &["GET", "key:000000000042"],
            &["SET", "k", "1"],
            &["SET", "k", ""],
            &["SETRANGE", "key:1", "10", "abc"],
            &["ZADD", "k", "1", "a", "2", "b", "3", "c", "4"],
            &["SET", "k", &value(99)],
            &["SET", "k", &value(100)],
            &["SET", "k", &value(12_345)],
            &["GET", &value(1_000)],
            &["SISMEMBER", "k", "x"],
            &["PING"],
        ] {
            let mut frame = Vec::new();
            request(&mut frame, words);
            check_all(&frame);
            frame.extend_from_slice(b"*2\r\n$3\r\nGET\r\n");
            check_all(&frame);
            assert_eq!(Plain::of(&frame).is_some(), carefully(&frame).is_some(), "{words:?}");
        }
    }

    #[test]
    fn plain_replies_are_what_the_scanner_says() {
        let bulk = |len: usize| format!("${len}\r\n{}\r\n", "v".repeat(len));
        let plain =
            [&bulk(0), &bulk(1), &bulk(9), &bulk(10), &bulk(99), &bulk(100), &bulk(12_345), "+OK\r\n", "+OKAY\r\n"];
        for reply in plain.iter().copied().chain(["$-1\r\n", ":0\r\n", ":-1234567890\r\n", "_\r\n"]) {
            check_all(reply.as_bytes());
            check_all(format!("{reply}+OK\r\n").as_bytes());
            assert_eq!(plain_reply(reply.as_bytes()), Some(reply.len()), "{reply:?}");
        }
        for other in ["-ERR x\r\n", "*1\r\n:1\r\n", ">1\r\n:1\r\n", "$03\r\nabc\r\n", "%0\r\n", ",1.5\r\n"] {
            check_all(other.as_bytes());
            assert_eq!(plain_reply(other.as_bytes()), None, "{other:?}");
        }
    }
}

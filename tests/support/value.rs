//! Replies as a test sees them, and a full reader of RESP2 and RESP3.

use std::fmt::{self, Debug, Formatter};
use std::io;

/// One reply. RESP2's two nulls and RESP3's are kept apart: to the byte means to the byte.
#[derive(Clone, PartialEq)]
pub enum Value {
    Simple(Vec<u8>),
    Error(Vec<u8>),
    Int(i64),
    Bulk(Vec<u8>),
    Array(Vec<Value>),
    /// `$-1`
    NullBulk,
    /// `*-1`
    NullArray,
    /// `_`
    Null,
    Bool(bool),
    /// The digits as they came.
    Double(Vec<u8>),
    BigNumber(Vec<u8>),
    BulkError(Vec<u8>),
    Verbatim(Vec<u8>),
    Map(Vec<(Value, Value)>),
    Set(Vec<Value>),
    Push(Vec<Value>),
    Attribute(Vec<(Value, Value)>, Box<Value>),
}

/// Where the bytes of a reply come from; every byte read is kept, so that replies can be compared
/// raw.
pub trait Source {
    /// The next line with its CR LF.
    fn line(&mut self) -> io::Result<Vec<u8>>;
    /// Exactly `n` bytes.
    fn exactly(&mut self, n: usize) -> io::Result<Vec<u8>>;
}

/// Reads one reply, checking lengths and terminators; `raw` gets its bytes.
pub fn read(source: &mut impl Source, raw: &mut Vec<u8>) -> io::Result<Value> {
    let line = source.line()?;
    raw.extend_from_slice(&line);
    let wrong = || io::Error::new(io::ErrorKind::InvalidData, format!("no reply: {}", line.escape_ascii()));
    let (&kind, rest) = line.strip_suffix(b"\r\n").and_then(<[u8]>::split_first).ok_or_else(wrong)?;
    let text = rest.to_vec();
    let number = || std::str::from_utf8(rest).ok().and_then(|digits| digits.parse::<i64>().ok()).ok_or_else(wrong);
    let count = || number().and_then(|n| usize::try_from(n).map_err(|_| wrong()));
    let mut many = |n: usize| (0..n).map(|_| read(source, raw)).collect::<io::Result<Vec<_>>>();
    let pairs = |flat: Vec<Value>| {
        let mut flat = flat.into_iter();
        std::iter::from_fn(move || Some((flat.next()?, flat.next()?))).collect::<Vec<_>>()
    };
    Ok(match kind {
        b'+' => Value::Simple(text),
        b'-' => Value::Error(text),
        b':' => Value::Int(number()?),
        b',' => Value::Double(text),
        b'(' => Value::BigNumber(text),
        b'_' if rest.is_empty() => Value::Null,
        b'#' if rest == b"t" || rest == b"f" => Value::Bool(rest == b"t"),
        b'$' if rest == b"-1" => Value::NullBulk,
        b'*' if rest == b"-1" => Value::NullArray,
        b'$' | b'!' | b'=' => {
            let mut body = source.exactly(count()? + 2)?;
            raw.extend_from_slice(&body);
            if !body.ends_with(b"\r\n") {
                return Err(wrong());
            }
            body.truncate(body.len() - 2);
            match kind {
                b'$' => Value::Bulk(body),
                b'!' => Value::BulkError(body),
                _ => Value::Verbatim(body),
            }
        }
        b'*' => Value::Array(many(count()?)?),
        b'~' => Value::Set(many(count()?)?),
        b'>' => Value::Push(many(count()?)?),
        b'%' => Value::Map(pairs(many(count()? * 2)?)),
        b'|' => {
            let attributes = pairs(many(count()? * 2)?);
            Value::Attribute(attributes, Box::new(read(source, raw)?))
        }
        _ => return Err(wrong()),
    })
}

/// The reply that `bytes` begin with, and its length; `None` when they hold only a part of it.
pub fn raw_reply(bytes: &[u8]) -> io::Result<Option<(Value, usize)>> {
    struct Slice<'a>(&'a [u8]);
    impl Source for Slice<'_> {
        fn line(&mut self) -> io::Result<Vec<u8>> {
            let end = self.0.windows(2).position(|two| two == b"\r\n").ok_or(io::ErrorKind::UnexpectedEof)?;
            self.exactly(end + 2)
        }
        fn exactly(&mut self, n: usize) -> io::Result<Vec<u8>> {
            let (head, rest) = self.0.split_at_checked(n).ok_or(io::ErrorKind::UnexpectedEof)?;
            self.0 = rest;
            Ok(head.to_vec())
        }
    }
    let mut raw = Vec::new();
    match read(&mut Slice(bytes), &mut raw) {
        Ok(value) => Ok(Some((value, raw.len()))),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
        Err(error) => Err(error),
    }
}

impl Value {
    pub fn ok() -> Self {
        Self::Simple(b"OK".to_vec())
    }

    pub fn bulk(bytes: impl AsRef<[u8]>) -> Self {
        Self::Bulk(bytes.as_ref().to_vec())
    }

    pub fn is_error(&self) -> bool {
        matches!(self, Self::Error(_) | Self::BulkError(_))
    }

    pub fn is_null(&self) -> bool {
        matches!(self, Self::NullBulk | Self::NullArray | Self::Null)
    }

    /// The text of a simple string, error, bulk or number; empty for everything else.
    pub fn text(&self) -> String {
        match self {
            Self::Int(n) => n.to_string(),
            other => String::from_utf8_lossy(other.bytes()).into_owned(),
        }
    }

    /// The bytes of anything that is a string of some kind; empty for everything else.
    pub fn bytes(&self) -> &[u8] {
        match self {
            Self::Simple(text) | Self::Error(text) | Self::Bulk(text) | Self::Double(text) => text,
            Self::BigNumber(text) | Self::BulkError(text) | Self::Verbatim(text) => text,
            _ => &[],
        }
    }

    /// As `text`, to the byte.
    pub fn text_bytes(&self) -> Vec<u8> {
        match self {
            Self::Int(n) => n.to_string().into_bytes(),
            other => other.bytes().to_vec(),
        }
    }

    /// An error's first word, as in `SHARDDOWN`; empty for everything else.
    pub fn error_word(&self) -> String {
        if !self.is_error() {
            return String::new();
        }
        self.text().split(' ').next().unwrap_or_default().to_owned()
    }

    /// The integer; panics on anything else.
    pub fn int(&self) -> i64 {
        match self {
            Self::Int(n) => *n,
            other => panic!("no integer: {other:?}"),
        }
    }

    /// The elements of an array, set or push; panics on anything else.
    pub fn elements(&self) -> &[Value] {
        match self {
            Self::Array(all) | Self::Set(all) | Self::Push(all) => all,
            other => panic!("no array: {other:?}"),
        }
    }

    /// The value of field `name` in a map, or in RESP2's flat array of pairs.
    pub fn field(&self, name: &str) -> Option<&Value> {
        match self {
            Self::Map(pairs) => pairs.iter().find(|(key, _)| key.bytes() == name.as_bytes()).map(|(_, value)| value),
            Self::Array(flat) => flat.chunks_exact(2).find(|two| two[0].bytes() == name.as_bytes()).map(|two| &two[1]),
            _ => None,
        }
    }
}

/// Short and readable: `$"text"`, `:3`, `*[..]`; what a failing test prints.
impl Debug for Value {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let quoted = |f: &mut Formatter<'_>, mark: char, text: &[u8]| {
            if text.len() <= 2_000 {
                return write!(f, "{mark}\"{}\"", text.escape_ascii());
            }
            write!(f, "{mark}\"{}...\" ({} bytes)", text[..200].escape_ascii(), text.len())
        };
        match self {
            Self::Simple(text) => quoted(f, '+', text),
            Self::Error(text) => quoted(f, '-', text),
            Self::Bulk(text) => quoted(f, '$', text),
            Self::BulkError(text) => quoted(f, '!', text),
            Self::Verbatim(text) => quoted(f, '=', text),
            Self::Double(text) => quoted(f, ',', text),
            Self::BigNumber(text) => quoted(f, '(', text),
            Self::Int(n) => write!(f, ":{n}"),
            Self::Bool(yes) => write!(f, "#{yes}"),
            Self::NullBulk => f.write_str("$-1"),
            Self::NullArray => f.write_str("*-1"),
            Self::Null => f.write_str("_"),
            Self::Array(all) => f.write_str("*").and_then(|()| f.debug_list().entries(all).finish()),
            Self::Set(all) => f.write_str("~").and_then(|()| f.debug_list().entries(all).finish()),
            Self::Push(all) => f.write_str(">").and_then(|()| f.debug_list().entries(all).finish()),
            Self::Map(all) => f.write_str("%").and_then(|()| f.debug_list().entries(all).finish()),
            Self::Attribute(all, value) => write!(f, "|{all:?} {value:?}"),
        }
    }
}

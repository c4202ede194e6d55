//! The values of the configuration that TOML has no type for: durations, sizes, addresses, secrets.
//!
//! Each says in one clause what would be right. A secret never appears in an error or in `Debug`.

use std::fmt;
use std::marker::PhantomData;
use std::path::PathBuf;
use std::time::Duration;

use serde::de::value::{Error as Plain, StrDeserializer};
use serde::de::{Deserialize, DeserializeOwned, Deserializer, Error, IntoDeserializer, Unexpected, Visitor};

use crate::topology::Endpoint;

use super::{Keyless, ReadyQuorum};

/// A whole number. One that is too large for the type is the largest, which every field's range refuses
/// by naming its own.
pub(super) fn number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    deserializer.deserialize_any(Number)
}

struct Number;

impl Visitor<'_> for Number {
    type Value = u32;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a whole number of 0 or more")
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<u32, E> {
        match u64::try_from(number) {
            Ok(number) => self.visit_u64(number),
            Err(_) => Err(E::invalid_value(Unexpected::Signed(number), &self)),
        }
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<u32, E> {
        Ok(u32::try_from(number).unwrap_or(u32::MAX))
    }

    fn visit_i128<E: Error>(self, number: i128) -> Result<u32, E> {
        if number < 0 { self.visit_i64(i64::MIN) } else { Ok(u32::MAX) }
    }

    fn visit_u128<E: Error>(self, _: u128) -> Result<u32, E> {
        Ok(u32::MAX)
    }
}

/// One of a few words. The parser itself forgets them when it meets a number.
pub(super) fn word<'de, D: Deserializer<'de>, T: DeserializeOwned>(deserializer: D) -> Result<T, D::Error> {
    deserializer.deserialize_any(Word(PhantomData))
}

struct Word<T>(PhantomData<T>);

impl<T: DeserializeOwned> Visitor<'_> for Word<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // No word is empty, and what is no word is answered with all of them.
        let error = T::deserialize(StrDeserializer::<Plain>::new("")).err().map(|error| error.to_string());
        let words: Vec<_> = error.iter().flat_map(|text| text.split('`').skip(3).step_by(2)).collect();
        write!(f, "one of \"{}\"", words.join("\", \""))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
        T::deserialize(text.into_deserializer())
    }
}

impl<'de> Deserialize<'de> for Keyless {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = deserializer.deserialize_any(Text("must be \"home\", \"refuse\" or the name of a backend"))?;
        Ok(match name.as_str() {
            "home" => Self::Home,
            "refuse" => Self::Refuse,
            _ => Self::Shard(name),
        })
    }
}

/// A duration as text: a whole number and `ms`, `s`, `m` or `h`; `"0"` needs no unit.
pub(super) fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    const RIGHT: &str = "must be a duration in quotes, such as \"500ms\", \"5s\", \"2m\" or \"0\"";
    let text = deserializer.deserialize_any(Text(RIGHT))?;
    parse_duration(&text).ok_or_else(|| Error::custom(format!("{RIGHT}, is {text:?}")))
}

fn parse_duration(text: &str) -> Option<Duration> {
    let (number, unit) = split(text)?;
    match unit {
        "" if number == 0 => Some(Duration::ZERO),
        "ms" => Some(Duration::from_millis(number)),
        "s" => Some(Duration::from_secs(number)),
        // Too long for any field is said by the field.
        "m" => Some(Duration::from_secs(number.saturating_mul(60))),
        "h" => Some(Duration::from_secs(number.saturating_mul(3600))),
        _ => None,
    }
}

/// A number of bytes: a whole number, or text with `KiB`, `MiB` or `GiB`. What is too large for the type
/// is the largest, which every field's range refuses by naming its own.
pub(super) fn bytes<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    deserializer.deserialize_any(Bytes)
}

struct Bytes;

impl Visitor<'_> for Bytes {
    type Value = u64;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a number of bytes, such as 65536 or \"4MiB\"")
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<u64, E> {
        u64::try_from(number)
            .map_err(|_| E::custom(format!("must be a number of bytes, such as 65536 or \"4MiB\", is {number}")))
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<u64, E> {
        Ok(number)
    }

    fn visit_i128<E: Error>(self, number: i128) -> Result<u64, E> {
        if number < 0 { self.visit_i64(i64::MIN) } else { Ok(u64::MAX) }
    }

    fn visit_u128<E: Error>(self, _: u128) -> Result<u64, E> {
        Ok(u64::MAX)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<u64, E> {
        parse_bytes(text)
            .ok_or_else(|| E::custom(format!("must be a number of bytes, such as 65536 or \"4MiB\", is {text:?}")))
    }
}

fn parse_bytes(text: &str) -> Option<u64> {
    let (number, unit) = split(text)?;
    match unit {
        "" | "B" => Some(number),
        "KiB" => Some(number.saturating_mul(1 << 10)),
        "MiB" => Some(number.saturating_mul(1 << 20)),
        "GiB" => Some(number.saturating_mul(1 << 30)),
        _ => None,
    }
}

/// The number at the start of `text`, and what follows it.
fn split(text: &str) -> Option<(u64, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    // Digits fail to parse only by being too many.
    let number = (end > 0).then(|| text[..end].parse().unwrap_or(u64::MAX))?;
    Some((number, text[end..].trim_start()))
}

const ADDRESS: &str = "must be \"host:port\" or \"unix:/path\"";
const TCP_ADDRESS: &str = "must be \"host:port\"";

/// An address to connect to.
pub(super) fn address<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Endpoint, D::Error> {
    let text = deserializer.deserialize_any(Text(ADDRESS))?;
    endpoint(&text, ADDRESS, 1).map_err(Error::custom)
}

/// Addresses to listen on; port 0 lets the kernel choose. The parser tells only where the list is,
/// so a mistake begins with its index, as `[1]: `.
pub(super) fn listen<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Endpoint>, D::Error> {
    let texts = Vec::<String>::deserialize(deserializer)?;
    let parse = |(index, text): (usize, &String)| {
        endpoint(text, ADDRESS, 0).map_err(|error| Error::custom(format!("[{index}]: {error}")))
    };
    texts.iter().enumerate().map(parse).collect()
}

/// An address to serve HTTP on, or none.
pub(super) fn listen_tcp<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Endpoint>, D::Error> {
    let text = deserializer.deserialize_any(Text(TCP_ADDRESS))?;
    if text.starts_with("unix:") {
        return Err(Error::custom(format!("{TCP_ADDRESS}, HTTP is served on TCP alone, is {text:?}")));
    }
    endpoint(&text, TCP_ADDRESS, 0).map(Some).map_err(Error::custom)
}

/// Reads `host:port`, `[v6]:port` or `unix:/path`; `right` says which of them are.
fn endpoint(text: &str, right: &str, port_min: u16) -> Result<Endpoint, String> {
    // Neither of these is shown, for there may be a password in it.
    if let Some((scheme, _)) = text.split_once("://").filter(|(scheme, _)| *scheme != "unix") {
        let tls = if ["rediss", "tls"].contains(&scheme) { ": TLS is not supported yet" } else { "" };
        return Err(format!("{right} without \"{scheme}://\"{tls}"));
    }
    if text.contains('@') {
        return Err(format!("{right}: a user and a password have fields of their own"));
    }
    if let Some(path) = text.strip_prefix("unix:") {
        return match path.starts_with('/') {
            true if path.len() > 100 => Err(format!("must be a path of at most 100 bytes, is {text:?}")),
            true => Ok(Endpoint::Unix(PathBuf::from(path))),
            false => Err(format!("must be an absolute path after \"unix:\", is {text:?}")),
        };
    }
    let wrong = || format!("{right}, is {text:?}");
    let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
    let port = port.parse().ok().filter(|port| *port >= port_min);
    let port = port.ok_or_else(|| format!("must have a port of {port_min} to 65535, is {text:?}"))?;
    let v6 = |c: char| c.is_ascii_hexdigit() || ":.%".contains(c);
    let host = match host.strip_prefix('[') {
        Some(inside) => inside.strip_suffix(']').ok_or_else(wrong)?,
        None if host.contains(':') && host.chars().all(v6) => {
            return Err(format!("must have brackets around an IPv6 address, is {text:?}"));
        }
        None if host.contains(':') => return Err(wrong()),
        None => host,
    };
    let plain = |c: char| c.is_ascii_alphanumeric() || "-._:%".contains(c);
    if host.is_empty() || !host.chars().all(plain) {
        return Err(wrong());
    }
    Ok(Endpoint::Tcp { host: host.to_owned(), port })
}

/// Text, where anything else is answered by the clause that says what is right.
struct Text(&'static str);

impl Visitor<'_> for Text {
    type Value = String;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<String, E> {
        Ok(text.to_owned())
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<String, E> {
        Err(E::custom(format!("{}, is {number}", self.0)))
    }
}

/// A password. It is shown to nobody: `Debug` and errors keep silent about it.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    #[must_use]
    pub fn new(text: String) -> Self {
        Self(text)
    }

    /// The password itself, for a handshake or a comparison.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(...)")
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Hidden).map(Self)
    }
}

/// Text whose errors do not repeat it, as serde's own would.
struct Hidden;

impl Hidden {
    fn wrong<E: Error>() -> E {
        E::custom("must be text in quotes")
    }
}

impl<'de> Visitor<'de> for Hidden {
    type Value = String;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("text in quotes")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<String, E> {
        Ok(text.to_owned())
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<String, E> {
        Err(Self::wrong())
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<String, E> {
        Err(Self::wrong())
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<String, E> {
        Err(Self::wrong())
    }

    fn visit_seq<A: serde::de::SeqAccess<'de>>(self, _: A) -> Result<String, A::Error> {
        Err(Self::wrong())
    }

    fn visit_map<A: serde::de::MapAccess<'de>>(self, _: A) -> Result<String, A::Error> {
        Err(Self::wrong())
    }
}

impl<'de> Deserialize<'de> for ReadyQuorum {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Quorum)
    }
}

const QUORUM: &str = "must be \"all\", \"majority\", or a number of backends";

struct Quorum;

impl Visitor<'_> for Quorum {
    type Value = ReadyQuorum;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(QUORUM)
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<ReadyQuorum, E> {
        let number = u64::try_from(number).map_err(|_| E::custom(format!("{QUORUM}, is {number}")))?;
        Number.visit_u64(number).map(ReadyQuorum::AtLeast)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<ReadyQuorum, E> {
        match text {
            "all" => Ok(ReadyQuorum::All),
            "majority" => Ok(ReadyQuorum::Majority),
            _ => Err(E::custom(format!("{QUORUM}, is {text:?}"))),
        }
    }
}

/// Stands where TLS will be configured; every value is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoTls {}

impl<'de> Deserialize<'de> for NoTls {
    fn deserialize<D: Deserializer<'de>>(_: D) -> Result<Self, D::Error> {
        Err(Error::custom("TLS is not supported yet: remove it, or put a TLS tunnel in between"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        let check = |text, right: Option<u64>| {
            assert_eq!(parse_duration(text), right.map(Duration::from_millis), "{text}");
        };
        check("500ms", Some(500));
        check("5s", Some(5000));
        check("5 s", Some(5000));
        check("2m", Some(120_000));
        check("1h", Some(3_600_000));
        check("0", Some(0));
        check("5", None);
        check("-5s", None);
        check("1.5s", None);
        check("5 seconds", None);
        check("", None);
        check("s", None);
        assert!(parse_duration("99999999999999999999s") > Some(Duration::from_secs(1 << 60)));
        assert!(parse_duration("9999999999999999999h") > Some(Duration::from_secs(1 << 60)));
    }

    #[test]
    fn sizes() {
        let check = |text, right| assert_eq!(parse_bytes(text), right, "{text}");
        check("4MiB", Some(4 << 20));
        check("4 KiB", Some(4096));
        check("1GiB", Some(1 << 30));
        check("17", Some(17));
        check("17B", Some(17));
        check("4MB", None);
        check("MiB", None);
        check("99999999999GiB", Some(u64::MAX));
        check("99999999999999999999", Some(u64::MAX));
    }

    #[test]
    fn addresses() {
        let check = |text: &str, right: Option<&str>| {
            assert_eq!(endpoint(text, ADDRESS, 0).ok().map(|e| e.to_string()).as_deref(), right, "{text}");
        };
        check("127.0.0.1:7001", Some("127.0.0.1:7001"));
        check("redis-1.example.com:7001", Some("redis-1.example.com:7001"));
        check("[::1]:7001", Some("[::1]:7001"));
        check("unix:/run/redis.sock", Some("unix:/run/redis.sock"));
        check("::1:7001", None);
        check("[::1:7001", None);
        check("redis:", None);
        check(":7001", None);
        check("redis", None);
        check("redis:70000", None);
        check("redis://a:1", None);
        check("u:p@a:1", None);
        check("unix:///run/redis.sock", Some("unix:///run/redis.sock"));
        check("unix:run/redis.sock", None);
    }

    #[test]
    fn a_secret_is_not_shown() {
        assert_eq!(format!("{:?}", Secret::new("hunter2".to_owned())), "Secret(...)");
    }
}

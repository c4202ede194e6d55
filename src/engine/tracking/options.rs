//! What CLIENT TRACKING and CLIENT CACHING say, and what is wrong with it, in Redis' words. Pure.

use std::collections::BTreeSet;

use crate::resp::{Args, Reply, integer};

const SYNTAX: &str = "ERR syntax error";
const NO_INTEGER: &str = "ERR value is not an integer or out of range";
const ONE_REDIRECT: &str = "ERR A client can only redirect to a single other client";
const NO_REDIRECT: &str = "ERR The client ID you want redirect to does not exist";
const NO_BCAST: &str = "ERR PREFIX option requires BCAST mode to be enabled";
const BCAST_STAYS: &str = "ERR You can't switch BCAST mode on/off before disabling tracking for this client, and then re-enabling it with a different mode.";
const NOT_WITH_BCAST: &str = "ERR OPTIN and OPTOUT are not compatible with BCAST";
const NOT_BOTH: &str = "ERR You can't specify both OPTIN mode and OPTOUT mode";
const OPT_STAYS: &str = "ERR You can't switch OPTIN/OPTOUT mode before disabling tracking for this client, and then re-enabling it with a different mode.";
const NOT_CACHING: &str =
    "ERR CLIENT CACHING can be called only when the client is in tracking mode with OPTIN or OPTOUT mode enabled";
const NO_OPTIN: &str = "ERR CLIENT CACHING YES is only valid when tracking is enabled in OPTIN mode.";
const NO_OPTOUT: &str = "ERR CLIENT CACHING NO is only valid when tracking is enabled in OPTOUT mode.";

/// How a client is to hear of changes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::engine) struct Mode {
    pub(super) bcast: bool,
    pub(super) optin: bool,
    pub(super) optout: bool,
    pub(super) noloop: bool,
    /// The id of the client that hears of them instead.
    pub(super) redirect: Option<u64>,
    pub(super) prefixes: BTreeSet<Vec<u8>>,
}

/// A request of CLIENT TRACKING.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Change {
    pub(super) on: bool,
    pub(super) mode: Mode,
    /// The prefixes among them that are given now, in their order.
    prefixes: Vec<Vec<u8>>,
}

impl Change {
    /// Reads the request of a client whose mode is `now`, if it tracks. Whether a client exists is
    /// asked where it is named, as Redis does.
    pub(super) fn read(args: Args<'_>, now: Option<&Mode>, exists: impl Fn(i64) -> bool) -> Result<Self, Vec<u8>> {
        let mut mode = Mode::default();
        let mut prefixes = Vec::new();
        let mut at = 3;
        while at < args.len() {
            let more = at + 1 < args.len();
            match () {
                () if args.is(at, "redirect") && more => {
                    at += 1;
                    if mode.redirect.is_some() {
                        return Err(ONE_REDIRECT.into());
                    }
                    let number = integer(args.at(at)).ok_or(NO_INTEGER)?;
                    if !exists(number) {
                        return Err(NO_REDIRECT.into());
                    }
                    mode.redirect = u64::try_from(number).ok();
                }
                () if args.is(at, "bcast") => mode.bcast = true,
                () if args.is(at, "optin") => mode.optin = true,
                () if args.is(at, "optout") => mode.optout = true,
                () if args.is(at, "noloop") => mode.noloop = true,
                () if args.is(at, "prefix") && more => {
                    at += 1;
                    prefixes.push(args.at(at).to_vec());
                }
                () => return Err(SYNTAX.into()),
            }
            at += 1;
        }
        match () {
            () if args.is(2, "on") => Self { on: true, mode, prefixes }.checked(now),
            () if args.is(2, "off") => Ok(Self { on: false, mode, prefixes }),
            () => Err(SYNTAX.into()),
        }
    }

    /// The options among each other, and with what holds already.
    fn checked(mut self, now: Option<&Mode>) -> Result<Self, Vec<u8>> {
        let mode = &self.mode;
        match now {
            _ if !mode.bcast && !self.prefixes.is_empty() => return Err(NO_BCAST.into()),
            Some(now) if now.bcast != mode.bcast => return Err(BCAST_STAYS.into()),
            _ if mode.bcast && (mode.optin || mode.optout) => return Err(NOT_WITH_BCAST.into()),
            _ if mode.optin && mode.optout => return Err(NOT_BOTH.into()),
            Some(now) if mode.optin && now.optout || mode.optout && now.optin => return Err(OPT_STAYS.into()),
            _ => {}
        }
        let known = now.map(|now| now.prefixes.clone()).unwrap_or_default();
        for (at, prefix) in self.prefixes.iter().enumerate() {
            if let Some(other) = known.iter().find(|other| overlap(prefix, other)) {
                return Err(collision(prefix, "an existing", other));
            }
            if let Some(other) = self.prefixes[at + 1..].iter().find(|other| overlap(prefix, other)) {
                return Err(collision(prefix, "another provided", other));
            }
        }
        if self.mode.bcast {
            if self.prefixes.is_empty() {
                // No prefix is every prefix.
                self.prefixes.push(Vec::new());
            }
            self.mode.prefixes = known.into_iter().chain(self.prefixes.iter().cloned()).collect();
        }
        Ok(self)
    }
}

impl Change {
    /// What a server is to be told that does already as the mode before said: it refuses to hear of a
    /// prefix twice.
    pub(super) fn news(&self) -> Mode {
        Mode { prefixes: self.prefixes.iter().cloned().collect(), ..self.mode.clone() }
    }
}

impl Mode {
    /// The requests that make a server do the same; `redirect` is that server's own id of the connection
    /// that is told.
    pub(super) fn requests(&self, redirect: Option<i64>) -> Vec<Vec<u8>> {
        let number = redirect.map(|id| id.to_string());
        let mut words: Vec<&[u8]> = vec![b"CLIENT", b"TRACKING", b"ON"];
        if let Some(number) = &number {
            words.extend([&b"REDIRECT"[..], number.as_bytes()]);
        }
        let flags: [(bool, &[u8]); 4] =
            [(self.bcast, b"BCAST"), (self.optin, b"OPTIN"), (self.optout, b"OPTOUT"), (self.noloop, b"NOLOOP")];
        words.extend(flags.iter().filter(|(set, _)| *set).map(|(_, word)| word));
        let plain = words.clone();
        let named: Vec<&[u8]> = self.prefixes.iter().filter(|prefix| !prefix.is_empty()).map(Vec::as_slice).collect();
        words.extend(named.iter().flat_map(|prefix| [&b"PREFIX"[..], prefix]));
        let mut frames = vec![frame(&words)];
        if !named.is_empty() && named.len() < self.prefixes.len() {
            // A server takes the empty prefix beside others only when it is not named.
            frames.push(frame(&plain));
        }
        frames
    }

    /// CLIENT CACHING of a client in this mode; None: it does not track.
    pub(super) fn caching(mode: Option<&Self>, args: Args<'_>) -> Result<(), &'static str> {
        let mode = mode.ok_or(NOT_CACHING)?;
        match () {
            () if args.is(2, "yes") => {
                if mode.optin {
                    Ok(())
                } else {
                    Err(NO_OPTIN)
                }
            }
            () if args.is(2, "no") => {
                if mode.optout {
                    Ok(())
                } else {
                    Err(NO_OPTOUT)
                }
            }
            () => Err(SYNTAX),
        }
    }

    /// CLIENT TRACKINGINFO.
    pub(super) fn info(mode: Option<&Self>, caching: bool, broken: bool, reply: &mut Reply<'_>) {
        let Some(mode) = mode else {
            reply.map(3).bulk("flags").set(1).bulk("off").bulk("redirect").integer(-1).bulk("prefixes").array(0);
            return;
        };
        let flags = [
            (true, "on"),
            (mode.bcast, "bcast"),
            (mode.optin, "optin"),
            (mode.optin && caching, "caching-yes"),
            (mode.optout, "optout"),
            (mode.optout && caching, "caching-no"),
            (mode.noloop, "noloop"),
            (broken, "broken_redirect"),
        ];
        let set: Vec<&str> = flags.iter().filter(|(set, _)| *set).map(|(_, word)| *word).collect();
        reply.map(3).bulk("flags").set(set.len());
        set.iter().for_each(|word| _ = reply.bulk(word));
        reply.bulk("redirect").integer(mode.redirect.unwrap_or(0) as i64);
        reply.bulk("prefixes").array(mode.prefixes.len());
        mode.prefixes.iter().for_each(|prefix| _ = reply.bulk(prefix));
    }
}

fn frame(words: &[&[u8]]) -> Vec<u8> {
    let mut out = Vec::new();
    crate::resp::request(&mut out, words);
    out
}

/// One is the beginning of the other.
fn overlap(a: &[u8], b: &[u8]) -> bool {
    a.starts_with(b) || b.starts_with(a)
}

fn collision(prefix: &[u8], which: &str, other: &[u8]) -> Vec<u8> {
    let tail = b"'. Prefixes for a single client must not overlap.";
    [b"ERR Prefix '", prefix, b"' overlaps with ", which.as_bytes(), b" prefix '", other, tail].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resp::{Limits, RequestScanner};

    fn read(line: &str, now: Option<&Mode>) -> Result<Change, String> {
        let (mut frame, mut spans) = (Vec::new(), Vec::new());
        crate::resp::request(&mut frame, &line.split(' ').collect::<Vec<_>>());
        RequestScanner::default().scan(&frame, &Limits::default(), true, &mut spans).unwrap();
        let change = Change::read(Args::new(&frame, &spans), now, |id| id == 7);
        change.map_err(|text| String::from_utf8(text).unwrap())
    }

    /// What a server is told, one line a request.
    fn told(mode: &Mode) -> String {
        let frames = mode.requests(mode.redirect.map(|_| 42));
        let line = |frame: &Vec<u8>| {
            let mut spans = Vec::new();
            RequestScanner::default().scan(frame, &Limits::default(), true, &mut spans).unwrap();
            let args = Args::new(frame, &spans);
            args.iter().map(|arg| String::from_utf8_lossy(arg).into_owned()).collect::<Vec<_>>().join(" ")
        };
        frames.iter().map(line).collect::<Vec<_>>().join("; ")
    }

    #[test]
    fn what_is_said_is_passed_on() {
        let check = |said: &str, wanted: &str| assert_eq!(told(&read(said, None).unwrap().mode), wanted, "{said}");
        check("CLIENT TRACKING on", "CLIENT TRACKING ON");
        check("CLIENT TRACKING ON noloop optin redirect 7", "CLIENT TRACKING ON REDIRECT 42 OPTIN NOLOOP");
        check("CLIENT TRACKING ON BCAST PREFIX b PREFIX a", "CLIENT TRACKING ON BCAST PREFIX a PREFIX b");
        check("CLIENT TRACKING ON BCAST", "CLIENT TRACKING ON BCAST");
        let first = read("CLIENT TRACKING ON BCAST PREFIX b", None).unwrap().mode;
        let second = read("CLIENT TRACKING ON BCAST NOLOOP", Some(&first)).unwrap().mode;
        assert_eq!(told(&second), "CLIENT TRACKING ON BCAST NOLOOP PREFIX b; CLIENT TRACKING ON BCAST NOLOOP");
    }

    #[test]
    fn what_comes_first_is_said_first() {
        let check = |said: &str, text: &str| assert_eq!(read(said, None).unwrap_err(), text, "{said}");
        check("CLIENT TRACKING ON REDIRECT 8 NONSENSE", NO_REDIRECT);
        check("CLIENT TRACKING ON REDIRECT 7 NONSENSE", SYNTAX);
        check("CLIENT TRACKING ON REDIRECT 7 REDIRECT 8", ONE_REDIRECT);
        check("CLIENT TRACKING ON OPTIN OPTOUT BCAST PREFIX", SYNTAX);
        check("CLIENT TRACKING OFF REDIRECT x", NO_INTEGER);
        assert!(!read("CLIENT TRACKING OFF OPTIN OPTOUT", None).unwrap().on);
    }
}

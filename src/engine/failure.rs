//! The one place where errors and refusals become the text of a reply.
//!
//! A text is one line: a stable first word, what happened to which shard at which address, and
//! whether the command may have run.

use crate::command::{self, CommandId};
use crate::resp::Args;
use crate::route::Refusal;
use crate::topology::{Shard, ShardId, Topology};

/// First words of error replies that are counted one by one; the last one stands for all others.
pub(super) const KINDS: &[&str] = &[
    "ERR",
    "WRONGTYPE",
    "SHARDDOWN",
    "SHARDLOST",
    "SHARDTIMEOUT",
    "SHARDPARTIAL",
    "CROSSSLOT",
    "NOAUTH",
    "WRONGPASS",
    "NOPERM",
    "NOSCRIPT",
    "BUSY",
    "LOADING",
    "OOM",
    "READONLY",
    "MISCONF",
    "EXECABORT",
    "PROTOCOL",
    "other",
];

/// The kind of an error reply, by its first word: an index of [`KINDS`].
pub(super) fn kind(reply: &[u8]) -> usize {
    kind_of_text(reply.get(1..).unwrap_or(&[]))
}

/// The same for the text of one, without the byte that marks it.
pub(super) fn kind_of_text(text: &[u8]) -> usize {
    if text.starts_with(b"ERR Protocol error") {
        return KINDS.len() - 2;
    }
    let end = text.iter().position(|b| matches!(b, b' ' | b'\r')).unwrap_or(text.len());
    KINDS.iter().position(|kind| kind.as_bytes() == &text[..end]).unwrap_or(KINDS.len() - 1)
}

/// Whether the text of an error says that a shard is away, be it of a transaction's commands. One of several
/// shards that ran something, or a limit of ours, is no such error.
pub(super) fn is_of_absence(text: &[u8]) -> bool {
    let text = text.strip_prefix(ABORTED.as_bytes()).unwrap_or(text);
    let says = |words: &str| text.windows(words.len()).any(|part| part == words.as_bytes());
    text.starts_with(b"SHARDDOWN ") && !says(NO_LEASE)
        || text.starts_with(b"SHARDLOST ")
        || text.starts_with(b"SHARDTIMEOUT ")
}

/// How the errors of a shard that is not there end.
const DID_NOT_RUN: &str = "; the command was not executed";
const MAY_HAVE_RUN: &str = "; the command may have been executed";
/// How the reply of an EXEC begins that ran nothing.
const ABORTED: &str = "EXECABORT Transaction discarded because of: ";
/// What is said of a shard that is there, when clients hold all of its connections.
const NO_LEASE: &str = " has no free connection ";

fn shard_name(shard: &Shard) -> String {
    format!("shard {} ({})", shard.name, shard.endpoint)
}

pub(super) fn down(shard: &Shard, trouble: &str) -> String {
    format!("SHARDDOWN {} is not connected: {trouble}{DID_NOT_RUN}", shard_name(shard))
}

pub(super) fn lost(shard: &Shard, trouble: &str) -> String {
    format!("SHARDLOST the connection to {} broke: {trouble}{MAY_HAVE_RUN}", shard_name(shard))
}

pub(super) fn timeout(shard: &Shard, ms: u64) -> String {
    format!("SHARDTIMEOUT no reply from {} within {ms} ms{MAY_HAVE_RUN}", shard_name(shard))
}

pub(super) fn watch_lost(shard: &Shard) -> String {
    format!(
        "SHARDLOST the connection to {} that watched the keys broke; the transaction was discarded, not executed",
        shard_name(shard)
    )
}

pub(super) fn no_lease(shard: &Shard, max: usize) -> String {
    format!(
        "SHARDDOWN {}{NO_LEASE}for one client alone: all {max} (limits.leases_max) are held; the command was not \
         executed",
        shard_name(shard)
    )
}

pub(super) fn no_party(shard: &Shard, max: usize, waited_ms: u64) -> String {
    format!(
        "{ABORTED}{}{NO_LEASE}for a transaction over shards: all {max} (limits.transaction_leases_max) were held for \
         {waited_ms} ms; nothing was executed",
        shard_name(shard)
    )
}

/// The part of an answer that another worker owes; a whole frame.
pub(super) fn peer_silent(trouble: &str) -> Vec<u8> {
    format!("-ERR another worker of the proxy {trouble}; among its clients the command may have been executed\r\n")
        .into()
}

/// The reply to EXEC when a shard did not take a command, or was lost before it was told to run any.
pub(super) fn not_prepared(refused: &[u8]) -> Vec<u8> {
    let said = String::from_utf8_lossy(refused.get(1..).unwrap_or(&[])).trim_end().to_owned();
    let ours = said.strip_suffix(MAY_HAVE_RUN).or_else(|| said.strip_suffix(DID_NOT_RUN));
    let said = ours.map_or(said.clone(), |said| format!("{said}; nothing was executed"));
    format!("-{ABORTED}{said}\r\n").into_bytes()
}

/// The reply to a command whose keys' values could not be read: it has not begun.
pub(super) fn not_begun(error: &[u8]) -> Vec<u8> {
    let said = String::from_utf8_lossy(error).trim_end().to_owned();
    match said.strip_suffix(MAY_HAVE_RUN) {
        Some(said) => format!("{said}{DID_NOT_RUN}\r\n").into_bytes(),
        None => error.to_vec(),
    }
}

/// That values are too large to be brought together.
pub(super) fn too_large(bytes: usize, max: usize) -> String {
    format!("what they hold measures {bytes} bytes, more than limits.cross_shard_max_bytes ({max})")
}

/// Whether nobody can say if what this error answers ran.
pub(super) fn is_uncertain(error: &[u8]) -> bool {
    error.starts_with(b"-SHARDLOST") || error.starts_with(b"-SHARDTIMEOUT")
}

/// The reply to a RENAME whose keys others changed again and again.
pub(super) fn rename_outrun(attempts: u32) -> Vec<u8> {
    format!(
        "-ERR the keys were changed by others in each of {attempts} attempts; nothing was renamed: try again, or give \
         both names one hash tag\r\n"
    )
    .into_bytes()
}

/// What there may be of two names when a RENAME could neither be finished nor undone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Left {
    /// The old name; perhaps the new one holds its value as well.
    PerhapsWritten,
    /// The new name; perhaps the old one is still there.
    PerhapsDeleted,
    /// Somebody else has changed the new name since.
    Changed,
}

pub(super) fn half_renamed(reason: &[u8], from: &[u8], to: &[u8], left: Left) -> Vec<u8> {
    // Whoever reads only the first word must not take it for a request that did nothing.
    let first = if is_uncertain(reason) && left != Left::Changed { "" } else { "SHARDPARTIAL " };
    let reason = match reason {
        [b'-', text @ ..] => String::from_utf8_lossy(text).trim_end().to_owned(),
        _ => format!("'{}' exists", shorten(to)),
    };
    let reason = reason.strip_suffix(MAY_HAVE_RUN).or(reason.strip_suffix(DID_NOT_RUN)).unwrap_or(&reason);
    let (from, to) = (shorten(from), shorten(to));
    let names = match left {
        Left::PerhapsWritten => format!("'{from}' was not renamed, but '{to}' may hold its value already"),
        Left::PerhapsDeleted => format!("'{to}' holds the value of '{from}', which may still exist as well"),
        Left::Changed => {
            format!("'{from}' was not renamed, but '{to}' got its value, and was changed by another client since")
        }
    };
    let mut out = Vec::new();
    crate::resp::Reply::new(&mut out, crate::resp::Proto::Resp2).error(format!("{first}{reason}; {names}"));
    out
}

/// What helps where keys are on two shards, for those who cannot say which rule.
pub(super) const REMEDY: &str = "give them one hash tag such as {tag}, or add a [[colocate]] rule";

/// Why a command on keys of two shards is not carried out, beyond that they are on two.
pub(super) fn cannot_gather(
    first: (&[u8], ShardId),
    second: (&[u8], ShardId),
    why: &str,
    remedy: &str,
    map: &Topology,
) -> String {
    let place = |(key, shard): (&[u8], ShardId)| format!("'{}' is on {}", shorten(key), map.shard(shard).name);
    format!(
        "CROSSSLOT Keys in request don't hash to the same shard ({}, {}), and {why}: {remedy}",
        place(first),
        place(second)
    )
}

/// The reply to EXEC when the shard with the watched keys, which is asked alone, did not run its part.
pub(super) fn watched_first(reply: &[u8], others: &[&str]) -> Vec<u8> {
    let said = String::from_utf8_lossy(reply).trim_end().to_owned();
    match said.strip_suffix(MAY_HAVE_RUN) {
        None => reply.to_vec(),
        Some(said) => format!(
            "{said}; its part of the transaction may have been executed, that of {} was not\r\n",
            others.join(", ")
        )
        .into_bytes(),
    }
}

/// The reply to EXEC when some shards ran their parts and others did not.
pub(super) fn partly_executed<'a>(
    said: impl Iterator<Item = (&'a Shard, &'a [u8])> + Clone,
    ran: impl Fn(&[u8]) -> bool,
) -> Vec<u8> {
    let names: Vec<&str> = said.clone().filter(|(_, reply)| ran(reply)).map(|(shard, _)| shard.name.as_str()).collect();
    let others: Vec<String> = said.filter(|(_, reply)| !ran(reply)).map(answered).collect();
    format!("-SHARDPARTIAL the transaction ran on {}; {}\r\n", names.join(", "), others.join("; ")).into_bytes()
}

/// The reply to EXEC when no shard is known to have run its part. One that says no says it for itself,
/// if there is none of which nothing is known.
pub(super) fn not_executed<'a>(
    said: impl Iterator<Item = (&'a Shard, &'a [u8])> + Clone,
    is_uncertain: impl Fn(&[u8]) -> bool,
) -> Vec<u8> {
    let Some((unknown, reply)) = said.clone().find(|(_, reply)| is_uncertain(reply)) else {
        return said.into_iter().next().map_or_else(Vec::new, |(_, reply)| reply.to_vec());
    };
    let others = said.filter(|(shard, _)| shard.name != unknown.name).map(answered);
    let all: Vec<String> = [String::from_utf8_lossy(reply).trim_end().to_owned()].into_iter().chain(others).collect();
    format!("{}\r\n", all.join("; ")).into_bytes()
}

fn answered((shard, reply): (&Shard, &[u8])) -> String {
    let said = String::from_utf8_lossy(reply.get(1..).unwrap_or(&[]));
    format!("{} answered: {}", shard_name(shard), said.trim_end())
}

/// The text for a request that is not carried out.
/// `remedy` is for keys on several shards.
pub(super) fn refusal(refusal: Refusal, args: Args<'_>, map: &Topology, remedy: &str) -> Vec<u8> {
    let name = |id: CommandId| command::row(id).name;
    let text = match refusal {
        Refusal::Unknown => return unknown_command(args),
        Refusal::UnknownSubcommand(parent) => {
            let container = name(parent).to_uppercase();
            return [b"ERR unknown subcommand '", said(args.at(1), 128), b"'. Try ", container.as_bytes(), b" HELP."]
                .concat();
        }
        // A transaction cannot go on after this, and Redis says so even when there is none.
        Refusal::Arity(id) if name(id) == "exec" => {
            "EXECABORT Transaction discarded because of: wrong number of arguments for 'exec' command".to_owned()
        }
        Refusal::Arity(id) => format!("ERR wrong number of arguments for '{}' command", name(id)),
        Refusal::CrossSlot { first, second } => {
            let place = |index: u32| {
                let key = args.at(index as usize);
                let shard = map.shard(map.shard_of(key));
                format!("'{}' is on {}", shorten(key), shard.name)
            };
            format!(
                "CROSSSLOT Keys in request don't hash to the same shard ({}, {}): {remedy}",
                place(first),
                place(second)
            )
        }
        Refusal::Reserved(at) => format!(
            "ERR the key '{}' cannot be used: names that begin with '{}' are the proxy's own",
            shorten(args.at(at as usize)),
            String::from_utf8_lossy(crate::route::RESERVED)
        ),
        Refusal::Pattern { key, pattern } => format!(
            "CROSSSLOT the pattern '{}' may name keys on other shards than '{}' ({}): give both one hash tag such as \
             {{tag}}, or add a [[colocate]] rule",
            shorten(args.at(pattern as usize)),
            shorten(args.at(key as usize)),
            map.shard(map.shard_of(args.at(key as usize))).name,
        ),
        Refusal::NotHere(id) => {
            let name = name(id).to_uppercase().replace('|', " ");
            format!(
                "ERR {name} is not available through Ringway: it concerns one server; an admin sends it with RINGWAY \
                 SHARD <name> {name}"
            )
        }
        Refusal::KeylessScript => {
            "ERR a script without keys has no shard to run on: [commands] keyless_scripts is \"refuse\"".to_owned()
        }
    };
    text.into_bytes()
}

/// Redis' words, which repeat some 128 bytes of the arguments.
fn unknown_command(args: Args<'_>) -> Vec<u8> {
    let mut repeated = Vec::new();
    for arg in args.iter().skip(1) {
        if repeated.len() >= 128 {
            break;
        }
        let room = 128 - repeated.len();
        repeated.extend_from_slice(&[b"'", said(arg, room), b"' "].concat());
    }
    [b"ERR unknown command '", said(args.at(0), 128), b"', with args beginning with: ", repeated.as_slice()].concat()
}

/// An argument as Redis prints one: a C string, cut at `max` bytes.
pub(super) fn said(arg: &[u8], max: usize) -> &[u8] {
    let end = arg.iter().take(max).position(|byte| *byte == 0).unwrap_or(arg.len().min(max));
    &arg[..end]
}

/// A key as it can stand in an error line.
fn shorten(key: &[u8]) -> String {
    let text: String = String::from_utf8_lossy(key).chars().take(64).collect();
    if text.len() < key.len() { format!("{text}...") } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_first_words() {
        for (reply, expected) in [
            ("-ERR no such key\r\n", "ERR"),
            ("-ERR Protocol error: invalid bulk length\r\n", "PROTOCOL"),
            ("-WRONGTYPE Operation\r\n", "WRONGTYPE"),
            ("-SHARDDOWN x\r\n", "SHARDDOWN"),
            ("-NOGROUP x\r\n", "other"),
            ("-X\r\n", "other"),
        ] {
            assert_eq!(KINDS[kind(reply.as_bytes())], expected, "{reply:?}");
        }
    }
}

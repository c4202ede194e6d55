//! The one place where errors and refusals become the text of a reply.
//!
//! A text is one line: a stable first word, what happened to which shard at which address, and
//! whether the command may have run.

use crate::command::{self, CommandId};
use crate::resp::Args;
use crate::route::Refusal;
use crate::topology::{Shard, Topology};

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
    let text = reply.get(1..).unwrap_or(&[]);
    if text.starts_with(b"ERR Protocol error") {
        return KINDS.len() - 2;
    }
    let end = text.iter().position(|b| matches!(b, b' ' | b'\r')).unwrap_or(text.len());
    KINDS.iter().position(|kind| kind.as_bytes() == &text[..end]).unwrap_or(KINDS.len() - 1)
}

fn shard_name(shard: &Shard) -> String {
    format!("shard {} ({})", shard.name, shard.endpoint)
}

pub(super) fn down(shard: &Shard, trouble: &str) -> String {
    format!("SHARDDOWN {} is not connected: {trouble}; the command was not executed", shard_name(shard))
}

pub(super) fn lost(shard: &Shard, trouble: &str) -> String {
    format!("SHARDLOST the connection to {} broke: {trouble}; the command may have been executed", shard_name(shard))
}

pub(super) fn timeout(shard: &Shard, ms: u64) -> String {
    format!("SHARDTIMEOUT no reply from {} within {ms} ms; the command may have been executed", shard_name(shard))
}

pub(super) fn watch_lost(shard: &Shard) -> String {
    format!(
        "SHARDLOST the connection to {} that watched the keys broke; the transaction was discarded, not executed",
        shard_name(shard)
    )
}

pub(super) fn no_lease(shard: &Shard, max: usize) -> String {
    format!(
        "SHARDDOWN {} has no free connection for one client alone: all {max} (limits.leases_max) are held; the command \
         was not executed",
        shard_name(shard)
    )
}

/// The text for a request that is not carried out.
pub(super) fn refusal(refusal: Refusal, args: Args<'_>, map: &Topology) -> String {
    let name = |id: CommandId| command::row(id).name;
    match refusal {
        Refusal::Unknown => unknown_command(args),
        Refusal::UnknownSubcommand(parent) => {
            let asked: String = String::from_utf8_lossy(args.at(1)).chars().take(128).collect();
            format!("ERR unknown subcommand '{asked}'. Try {} HELP.", name(parent).to_uppercase())
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
                "CROSSSLOT Keys in request don't hash to the same shard ({}, {}): give them one hash tag such as \
                 {{tag}}, or add a [[colocate]] rule",
                place(first),
                place(second)
            )
        }
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
    }
}

/// Redis' words, which repeat the first 128 bytes of the arguments.
fn unknown_command(args: Args<'_>) -> String {
    let mut said = String::new();
    for arg in args.iter().skip(1) {
        if said.len() >= 128 {
            break;
        }
        let room = 128 - said.len();
        let arg = &arg[..arg.len().min(room)];
        said.push_str(&format!("'{}' ", String::from_utf8_lossy(arg)));
    }
    let name = args.at(0);
    let name = String::from_utf8_lossy(&name[..name.len().min(128)]).into_owned();
    format!("ERR unknown command '{name}', with args beginning with: {said}")
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

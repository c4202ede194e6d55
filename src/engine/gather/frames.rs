//! What a gather says to servers, and how their words are read. Pure.
//!
//! The scripts' bodies never change, so that a server keeps each of them once. Keys and payloads are
//! their arguments.

use super::{Gather, QUEUED, RESULT};
use crate::engine::ShardState;
use crate::engine::waiting::body;
use crate::resp::{elements, request};

/// Makes the copies of a command that only reads: neither replicas nor the append-only file are to
/// hear of them. One that cannot be made undoes the others, and its error is the answer. Who may not take
/// them away again makes none (asked since 7.0; to try it would be a write, after which no limit counts).
const RESTORE: &str = "\
redis.set_repl(redis.REPL_NONE)
if KEYS[1] and redis.acl_check_cmd and not redis.acl_check_cmd('UNLINK', KEYS[1]) then
  return redis.error_reply('NOPERM this user has no permissions to run the \\'unlink\\' command')
end
for i = 1, #KEYS do
  local said = redis.pcall('RESTORE', KEYS[i], '0', ARGV[i])
  if said.err then
    for j = 1, i - 1 do redis.call('UNLINK', KEYS[j]) end
    return said
  end
end
return redis.status_reply('OK')";

const UNLINK: &str = "\
redis.set_repl(redis.REPL_NONE)
for i = 1, #KEYS do redis.call('UNLINK', KEYS[i]) end
return redis.status_reply('OK')";

/// Makes the copies, runs the command and takes them away again, or makes none as above. Replicas do the
/// same: what they are told is each command, with the copies' names. ARGV: how many copies there are; how
/// RESTORE is to read times; a time and a payload for each; the command.
const WRITE: &str = "\
local copies = tonumber(ARGV[1])
local said
if copies > 0 and redis.acl_check_cmd and not redis.acl_check_cmd('UNLINK', KEYS[1]) then
  return redis.error_reply('NOPERM this user has no permissions to run the \\'unlink\\' command')
end
for i = 1, copies do
  said = redis.pcall('RESTORE', KEYS[i], ARGV[2 * i + 1], ARGV[2 * i + 2], ARGV[2])
  if said.err then
    for j = 1, i - 1 do redis.call('UNLINK', KEYS[j]) end
    return said
  end
end
said = redis.pcall(unpack(ARGV, 2 * copies + 3))
for i = 1, copies do redis.call('UNLINK', KEYS[i]) end
return said";

/// The batch of a command that only reads, with the part that each reply is.
pub(super) fn read(gather: &Gather) -> Vec<(u16, Vec<u8>)> {
    let there = || gather.copies.iter().filter_map(|copy| Some((gather.name(&copy.key), copy.payload.as_deref()?)));
    let names: Vec<Vec<u8>> = there().map(|(name, _)| name).collect();
    let count = names.len().to_string();
    let script = |text: &'static str| -> Vec<&[u8]> {
        [b"EVAL", text.as_bytes(), count.as_bytes()].into_iter().chain(names.iter().map(Vec::as_slice)).collect()
    };
    let mut restore = script(RESTORE);
    restore.extend(there().map(|(_, payload)| payload));
    vec![
        (QUEUED, frame(&[b"MULTI"])),
        (QUEUED, frame(&restore)),
        (QUEUED, frame(&gather.words.iter().map(Vec::as_slice).collect::<Vec<_>>())),
        (QUEUED, frame(&script(UNLINK))),
        (RESULT, frame(&[b"EXEC"])),
    ]
}

/// The script of a command that writes.
pub(super) fn write(gather: &Gather, has_absolute: bool) -> Vec<(u16, Vec<u8>)> {
    let there = || gather.copies.iter().filter_map(|copy| Some((copy, copy.payload.as_deref()?)));
    let names: Vec<Vec<u8>> = there().map(|(copy, _)| gather.name(&copy.key)).collect();
    let (keys, copies) = ((names.len() + 1).to_string(), names.len().to_string());
    let mut args: Vec<&[u8]> = vec![b"EVAL", WRITE.as_bytes(), keys.as_bytes()];
    args.extend(names.iter().map(Vec::as_slice));
    // No name of a copy is there already, so REPLACE replaces nothing: it stands for no option.
    args.extend([gather.anchor.as_slice(), copies.as_bytes(), if has_absolute { b"ABSTTL" } else { b"REPLACE" }]);
    args.extend(there().flat_map(|(copy, payload)| [copy.ttl.as_slice(), payload]));
    args.extend(gather.words.iter().map(Vec::as_slice));
    vec![(RESULT, frame(&args))]
}

/// A key's payload and time to live at one moment.
pub(super) fn dump_with_ttl(key: &[u8], has_absolute: bool) -> [(u16, Vec<u8>); 4] {
    let ttl: &[u8] = if has_absolute { b"PEXPIRETIME" } else { b"PTTL" };
    [
        (QUEUED, frame(&[b"MULTI"])),
        (QUEUED, frame(&[b"DUMP", key])),
        (QUEUED, frame(&[ttl, key])),
        (0, frame(&[b"EXEC"])),
    ]
}

/// What RESTORE takes for the reply to PEXPIRETIME or PTTL. 0 would mean no end: a key that has no
/// millisecond left gets one.
pub(super) fn ttl(reply: &[u8]) -> Vec<u8> {
    match body(reply) {
        digits if digits.first() == Some(&b'-') => b"0".to_vec(),
        b"0" => b"1".to_vec(),
        digits => digits.to_vec(),
    }
}

/// The answer in EXEC's array: the command's own, unless a copy could not be made.
pub(super) fn said(result: &[u8]) -> &[u8] {
    let mut replies = elements(result);
    match replies.next() {
        Some(restored) if restored.first() == Some(&b'-') => restored,
        Some(_) => replies.next().unwrap_or(result),
        None => result,
    }
}

/// Whether the server tells absolute times (PEXPIRETIME), which no delay makes wrong.
pub(super) fn has_absolute(shard: &ShardState) -> bool {
    version(shard).is_none_or(|(major, _)| major >= 7)
}

/// Whether `source` writes payloads that `target` cannot read; what is not known is tried.
pub(super) fn is_unreadable(source: &ShardState, target: &ShardState) -> bool {
    let (Some(written), Some(read)) = (format(source), format(target)) else { return false };
    // Valkey left the numbers between to Redis, and reads none of them.
    written > read || read >= VALKEY_FORMAT && (12..VALKEY_FORMAT).contains(&written)
}

fn version(shard: &ShardState) -> Option<(u32, u32)> {
    let mut numbers = shard.version.as_deref()?.split('.').map(|part| part.parse().ok());
    Some((numbers.next()??, numbers.next()??))
}

/// The version of the format (RDB) since Valkey numbers it by itself.
const VALKEY_FORMAT: u32 = 80;

/// The version of the format (RDB) that the server writes, the newest that it reads; of the newest
/// servers the least that it can be.
fn format(shard: &ShardState) -> Option<u32> {
    Some(match version(shard)? {
        (..=6, _) => 9,
        (7, ..=1) => 10,
        (7, 2..=3) => 11,
        (8, _) if shard.is_valkey => 11,
        (9.., _) if shard.is_valkey => VALKEY_FORMAT,
        _ => 12,
    })
}

pub(super) fn frame(args: &[&[u8]]) -> Vec<u8> {
    let mut out = Vec::new();
    request(&mut out, args);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_what_restore_takes() {
        for (reply, taken) in
            [(":-1\r\n", "0"), (":-2\r\n", "0"), (":0\r\n", "1"), (":1700000000000\r\n", "1700000000000")]
        {
            assert_eq!(ttl(reply.as_bytes()), taken.as_bytes(), "{reply:?}");
        }
    }

    #[test]
    fn a_payload_of_a_newer_server_is_not_readable() {
        let server = |text: &str| {
            let version = text.trim_start_matches("valkey ").to_owned();
            ShardState { version: Some(version), is_valkey: text.starts_with("valkey"), ..ShardState::new() }
        };
        for (source, target, expected) in [
            ("7.0.15", "7.0.1", false),
            ("7.2.4", "7.0.15", true),
            ("7.0.15", "7.2.4", false),
            ("6.2.1", "7.0.15", false),
            ("7.0.15", "6.2.1", true),
            ("8.0.1", "7.2.4", true),
            ("valkey 8.0.1", "7.2.4", false),
            ("8.0.1", "valkey 8.0.1", true),
            ("valkey 9.0.0", "8.0.1", true),
            ("8.0.1", "valkey 9.0.0", true),
            ("7.2.4", "valkey 9.0.0", false),
            ("strange", "7.0.15", false),
        ] {
            assert_eq!(is_unreadable(&server(source), &server(target)), expected, "{source} -> {target}");
        }
    }

    #[test]
    fn the_answer_is_the_commands_own_unless_a_copy_failed() {
        assert_eq!(said(b"*3\r\n+OK\r\n~1\r\n$1\r\na\r\n+OK\r\n"), b"~1\r\n$1\r\na\r\n");
        assert_eq!(said(b"*3\r\n-OOM x\r\n:0\r\n+OK\r\n"), b"-OOM x\r\n");
        assert_eq!(said(b"*3\r\n+OK\r\n-WRONGTYPE x\r\n+OK\r\n"), b"-WRONGTYPE x\r\n");
    }
}

//! Whether a reply is what its request may get, by what the servers really did.

use super::client::{Expect, Pending};
use super::ledger::Ledger;

pub(crate) enum Outcome {
    Done,
    /// Not carried out, and rightly said so.
    Undone,
    /// A server failed it.
    Failed,
}

/// Whether `reply` is what the request may get.
pub(crate) fn judge(pending: &Pending, reply: &[u8], ledger: &mut Ledger) -> Result<Outcome, String> {
    let all: Vec<u64> = pending.groups.concat();
    if let Expect::Exec(items) = &pending.expect {
        return judge_exec(items, &all, reply, ledger);
    }
    let failed = [&b"-SHARDDOWN "[..], b"-SHARDLOST ", b"-SHARDTIMEOUT "].iter().any(|kind| reply.starts_with(kind));
    if failed {
        if !pending.may_fail {
            return Err("it needs no server".to_owned());
        }
        let not_executed = reply.windows(12).any(|words| words == b"not executed");
        match pending.groups.len() {
            0 => {}
            1 if not_executed => ledger.not_executed(&all),
            _ if not_executed => ledger.not_all_executed(pending.groups.clone()),
            _ => {}
        }
        return Ok(Outcome::Failed);
    }
    if matches!(pending.expect, Expect::Any(_)) && reply.starts_with(b"-READONLY ") {
        // A server refused the EXEC around the pop.
        ledger.not_executed(&all);
        return Ok(Outcome::Undone);
    }
    let expected = expected(&pending.expect, reply, ledger)?;
    if expected != reply {
        return Err(format!("expected {}", shown(&expected)));
    }
    ledger.answered(&all);
    Ok(Outcome::Done)
}

/// The reply to EXEC: what each command must get, or nothing ran, or it is said on which shards it did.
fn judge_exec(items: &[Expect], all: &[u64], reply: &[u8], ledger: &mut Ledger) -> Result<Outcome, String> {
    let text = String::from_utf8_lossy(reply).into_owned();
    let on = |names: &str, ledger: &Ledger| -> Vec<u64> {
        let named = |token: &u64| ledger.shard_of(*token).map(|shard| char::from(b'a' + shard as u8).to_string());
        all.iter()
            .copied()
            .filter(|token| names.split(", ").any(|name| named(token).as_deref() == Some(name)))
            .collect()
    };
    let between = |from: &str, to: &str| Some(text.split_once(from)?.1.split_once(to)?.0.to_owned());
    match text.split([' ', '\r']).next().unwrap_or_default() {
        // What a server refuses at EXEC it does not run.
        "*-1" | "_" | "-READONLY" => {
            ledger.not_executed(all);
            Ok(Outcome::Undone)
        }
        "-EXECABORT" if text.contains("because of: OOM ") => {
            ledger.not_executed(all);
            Ok(Outcome::Undone)
        }
        "-EXECABORT" if text.contains("nothing was executed") => {
            ledger.not_executed(all);
            Ok(Outcome::Failed)
        }
        "-SHARDDOWN" => {
            ledger.not_executed(all);
            Ok(Outcome::Failed)
        }
        "-SHARDPARTIAL" => {
            let names = between(" ran on ", ";").ok_or("it does not say who ran it")?;
            let ran = on(&names, ledger);
            if let Some(token) = ran.iter().find(|token| ledger.said(**token).is_none()) {
                return Err(format!("{token} did not run"));
            }
            ledger.answered(&ran);
            for (shard, name) in [(0, "a"), (1, "b"), (2, "c")] {
                let said = between(&format!("shard {name} (10.0.0.1:{}) answered: ", 7001 + shard), "; shard ");
                if said.is_some_and(|said| said.contains("not executed") || said.contains("READONLY")) {
                    let tokens = on(name, ledger);
                    ledger.not_executed(&tokens);
                }
            }
            Ok(Outcome::Failed)
        }
        "-SHARDLOST" | "-SHARDTIMEOUT" => {
            match between(", that of ", " was not") {
                Some(others) => ledger.not_executed(&on(&others, ledger)),
                None if text.contains("not executed") && !text.contains("may have been executed") => {
                    ledger.not_executed(all);
                }
                None => {}
            }
            Ok(Outcome::Failed)
        }
        _ => {
            let head = format!("*{}\r\n", items.len());
            let mut rest = reply.strip_prefix(head.as_bytes()).ok_or(format!("expected {} replies", items.len()))?;
            for item in items {
                let len = frame_len(rest).ok_or("a reply is missing")?;
                let expected = expected(item, &rest[..len], ledger)?;
                if expected != rest[..len] {
                    return Err(format!("{item:?} got {}, expected {}", shown(&rest[..len]), shown(&expected)));
                }
                rest = &rest[len..];
            }
            ledger.answered(all);
            Ok(Outcome::Done)
        }
    }
}

/// What the servers said, as the client is to see it; of several errors of parts any will do.
fn expected(expect: &Expect, reply: &[u8], ledger: &Ledger) -> Result<Vec<u8>, String> {
    let said = |token: &u64| ledger.said(*token).ok_or_else(|| format!("{token} was never executed"));
    Ok(match expect {
        Expect::Exact(bytes) => bytes.clone(),
        Expect::Prefix(text) if reply.starts_with(text.as_bytes()) => reply.to_vec(),
        Expect::Prefix(text) => text.as_bytes().to_vec(),
        Expect::Token(token) => said(token)?.to_vec(),
        Expect::Values(tokens) | Expect::Sum(tokens) | Expect::Pairs(tokens) => {
            let parts = tokens.iter().map(said).collect::<Result<Vec<_>, _>>();
            let refused = tokens.iter().filter_map(|token| ledger.said(*token)).find(|part| part.starts_with(b"-"));
            if reply.starts_with(b"-") {
                let line = refused.ok_or("no part failed")?;
                let end = line.len() - 2;
                let of_a_part = tokens
                    .iter()
                    .filter_map(|token| ledger.said(*token))
                    .any(|part| part.starts_with(b"-") && reply.starts_with(&part[..part.len() - 2]));
                if of_a_part { reply.to_vec() } else { line[..end].to_vec() }
            } else {
                let parts = parts?;
                if refused.is_some() {
                    return Err("a part failed".to_owned());
                }
                match expect {
                    Expect::Values(_) => [format!("*{}\r\n", parts.len()).into_bytes(), parts.concat()].concat(),
                    Expect::Sum(_) => {
                        let sum: u64 = parts.iter().map(|part| number(part)).sum();
                        format!(":{sum}\r\n").into_bytes()
                    }
                    _ => b"+OK\r\n".to_vec(),
                }
            }
        }
        Expect::Any(tokens) => {
            let mut ran: Vec<&[u8]> = tokens.iter().filter_map(|token| ledger.said(*token)).collect();
            // A server that was given all of them refuses them with one word.
            ran.dedup();
            match ran.as_slice() {
                [one] => one.to_vec(),
                // A server refused the whole request.
                [error, ..] if error.starts_with(b"-") => error.to_vec(),
                _ => return Err(format!("{} of its keys gave something", ran.len())),
            }
        }
        Expect::Exec(_) => return Err("a transaction in a transaction".to_owned()),
    })
}

fn number(reply: &[u8]) -> u64 {
    String::from_utf8_lossy(&reply[1..]).trim_end().parse().unwrap_or(0)
}

/// How long the reply at the front of `bytes` is, once it is whole. The client's own eyes: nothing of
/// the proxy's is used.
pub(crate) fn frame_len(bytes: &[u8]) -> Option<usize> {
    let mut at = 0;
    let mut left = 1_i64;
    while left > 0 {
        let line = bytes.get(at..)?.windows(2).position(|pair| pair == b"\r\n")?;
        let number = || String::from_utf8_lossy(&bytes[at + 1..at + line]).parse::<i64>().unwrap_or(-1);
        left -= 1;
        match bytes[at] {
            b'$' if number() >= 0 => {
                let len = number() as usize;
                at += line + 2 + len + 2;
            }
            kind @ (b'*' | b'%') => {
                left += number().max(0) * if kind == b'%' { 2 } else { 1 };
                at += line + 2;
            }
            b'$' | b'+' | b'-' | b':' | b'_' => at += line + 2,
            other => panic!("no reply starts with {other}: {}", shown(bytes)),
        }
        if at > bytes.len() {
            return None;
        }
    }
    Some(at)
}

pub(crate) fn shown(bytes: &[u8]) -> String {
    String::from_utf8_lossy(&bytes[..bytes.len().min(300)]).escape_debug().to_string()
}

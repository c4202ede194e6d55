//! Runs a case against one target and writes down what it answered; two transcripts are then
//! compared line by line.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

use super::cases::{Case, Compare, Send, Step};
use crate::support::{Client, Value};

/// RESP2 or RESP3.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    Resp2,
    Resp3,
}

/// Something that speaks Redis: a plain server, or the proxy.
pub(crate) struct Target {
    address: SocketAddr,
    cleaner: Client,
    protocol: Protocol,
}

/// What one step answered, already reduced to what is compared.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Line {
    pub(crate) step: String,
    pub(crate) answer: String,
    pub(crate) is_error: bool,
}

impl Target {
    pub(crate) fn new(address: SocketAddr, protocol: Protocol) -> Self {
        Self { address, cleaner: Client::connect(address), protocol }
    }

    /// Runs the case on an empty target over fresh connections. A reply that does not come, or a
    /// connection that breaks, is an answer too.
    pub(crate) fn run(&mut self, case: &Case) -> Vec<Line> {
        for clean in [&["FLUSHALL"][..], &["SCRIPT", "FLUSH"], &["FUNCTION", "FLUSH"]] {
            let reply = self.cleaner.call(clean);
            assert_eq!(reply, Value::ok(), "{clean:?}");
        }
        let mut connections = HashMap::new();
        let mut kept = HashMap::new();
        let mut lines = Vec::new();
        for step in &case.steps {
            let client = connections.entry(step.on.clone()).or_insert_with(|| self.connect());
            lines.push(run_step(client, step, &mut kept));
        }
        // Nothing may be left over: RESET answers in every state, and does so last.
        let mut names = connections.keys().cloned().collect::<Vec<_>>();
        names.sort();
        for name in names {
            let client = connections.get_mut(&name).unwrap();
            let _ = client.try_send_raw(b"*1\r\n$5\r\nRESET\r\n");
            let mut rest = Vec::new();
            loop {
                let (text, raw) = answer(client);
                rest.push(text);
                if raw.is_none_or(|raw| raw == b"+RESET\r\n") {
                    break;
                }
            }
            lines.push(Line { step: format!("left over on {name}"), answer: rest.join(" "), is_error: false });
        }
        lines
    }

    fn connect(&self) -> Client {
        let client = Client::connect(self.address).patience(Duration::from_secs(5));
        if self.protocol == Protocol::Resp3 { client.resp3() } else { client }
    }
}

fn run_step(client: &mut Client, step: &Step, kept: &mut HashMap<String, Vec<u8>>) -> Line {
    let resolve = |word: &Vec<u8>| {
        let name = std::str::from_utf8(word).ok().and_then(|word| word.strip_prefix('$'));
        name.and_then(|name| kept.get(name)).unwrap_or(word).clone()
    };
    let mut words = step.words.iter().map(resolve).collect::<Vec<_>>();
    let shown = step.words.iter().map(|word| word.escape_ascii().to_string()).collect::<Vec<_>>().join(" ");
    let mut line = Line { step: shown, answer: String::new(), is_error: false };
    if step.compare == Compare::Scan {
        line.answer = whole_scan(client, &mut words);
        return line;
    }
    let _ = match step.send {
        Send::Request => client.try_send_raw(&crate::support::request(&words)),
        Send::Raw => client.try_send_raw(&words[0]),
        Send::Nothing => Ok(()),
        Send::Close => {
            line.answer = if client.closed() { "closed" } else { "not closed" }.to_owned();
            return line;
        }
    };
    let mut answers = Vec::new();
    for _ in 0..step.replies {
        match client.try_reply_raw() {
            Ok((value, raw)) => {
                line.is_error |= value.is_error();
                if let Some(name) = &step.keep {
                    kept.insert(name.clone(), value.text_bytes());
                }
                answers.push(reduce(value, &raw, step.compare));
            }
            Err(error) => answers.push(lost(&error)),
        }
    }
    line.answer = answers.join(" ");
    line
}

fn answer(client: &mut Client) -> (String, Option<Vec<u8>>) {
    match client.try_reply_raw() {
        Ok((_, raw)) => (shown(&raw), Some(raw)),
        Err(error) => (lost(&error), None),
    }
}

/// A close is a close, whether it came with FIN or with RST.
fn lost(error: &std::io::Error) -> String {
    if error.kind() == std::io::ErrorKind::TimedOut { "<no reply>" } else { "<closed>" }.to_owned()
}

fn whole_scan(client: &mut Client, words: &mut [Vec<u8>]) -> String {
    let mut found = Vec::new();
    for _ in 0..1_000 {
        let reply = match client.try_call(words) {
            Ok(Value::Array(two)) if two.len() == 2 => two,
            other => return format!("{other:?}"),
        };
        found.extend(reply[1].elements().iter().map(|key| format!("{key:?}")));
        words[1] = reply[0].bytes().to_vec();
        if words[1] == b"0" {
            found.sort();
            return found.join(" ");
        }
    }
    "the scan does not end".to_owned()
}

fn reduce(value: Value, raw: &[u8], compare: Compare) -> String {
    let kind = char::from(raw[0]);
    match compare {
        Compare::Bytes | Compare::Scan => shown(raw),
        Compare::Type => format!("{kind}..."),
        Compare::Length => match value {
            Value::Map(pairs) => format!("%{}", pairs.len()),
            other => format!("{kind}{}", other.elements().len()),
        },
        Compare::Digits => {
            let mut text = String::new();
            for letter in format!("{value:?}").chars() {
                let letter = if letter.is_ascii_digit() { '0' } else { letter };
                if letter != '0' || !text.ends_with('0') {
                    text.push(letter);
                }
            }
            text
        }
        Compare::Sorted => {
            let mut all = match value {
                Value::Array(all) | Value::Set(all) => all.iter().map(|one| format!("{one:?}")).collect(),
                Value::Map(all) => all.iter().map(|pair| format!("{pair:?}")).collect(),
                other => vec![format!("{other:?}")],
            };
            all.sort();
            format!("{kind}{}", all.join(" "))
        }
    }
}

fn shown(raw: &[u8]) -> String {
    if raw.len() <= 4_000 {
        return raw.escape_ascii().to_string();
    }
    // Long replies are compared whole, by their sum, and shown by their beginning.
    let sum =
        raw.iter().fold(0xcbf2_9ce4_8422_2325_u64, |sum, &byte| (sum ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3));
    format!("{} ... {} bytes, sum {sum:016x}", raw[..200].escape_ascii(), raw.len())
}

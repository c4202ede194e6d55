//! The page at `/`: the state of the proxy for somebody who was woken up.
//!
//! Plain HTML that renews itself; nothing is fetched from anywhere, no script runs. The verdict
//! stands first, then what is wrong, then the figures.

use std::fmt::{self, Display, Formatter, Write};

use super::status::{Shard, State, Status};

/// Text that may hold anything, made safe inside an element or a quoted attribute.
struct Escaped<'a>(&'a str);

const HEAD: &str = r#"<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta http-equiv="refresh" content="5">
<meta name="viewport" content="width=device-width, initial-scale=1"><title>Ringway</title><style>
body{font:16px/1.5 system-ui,sans-serif;max-width:64rem;margin:1.5rem auto;padding:0 1rem;background:#fff;color:#1b1f24}
h1{font-size:1.2rem;margin:0}.verdict{font-size:1.5rem;font-weight:600;padding:.5rem 1rem;margin:1rem 0;border-radius:.4rem}
.good{background:#d8f3dc}.bad{background:#ffd6d6}.warn{background:#fff0c2}
table{border-collapse:collapse;width:100%;margin:.5rem 0 1.5rem}th,td{text-align:left;padding:.3rem .6rem;border-bottom:1px solid #d5d9de}
pre{overflow-x:auto}td.n,th.n{text-align:right;font-variant-numeric:tabular-nums}p{margin:.4rem 0}
@media (prefers-color-scheme:dark){body{background:#14171a;color:#e4e7ea}.good{background:#123d22}.bad{background:#5a1a1a}.warn{background:#4d3c08}th,td{border-color:#363c42}a{color:#8ab8ff}}
</style></head><body>
"#;

const FOOT: &str = "<p><a href=\"/status\">status (JSON)</a> &middot; <a href=\"/metrics\">metrics</a> &middot; \
    <a href=\"/advise\">advise</a> &middot; <a href=\"/readyz\">readyz</a> &middot; <a href=\"/healthz\">healthz</a> &middot; renewed every 5 seconds</p>\n</body></html>\n";

const SHARDS_HEAD: &str = "<table><tr><th>shard</th><th>state</th><th>address</th><th class=n>weight</th><th class=n>slots</th>\
    <th class=n>share</th><th class=n>in flight</th><th class=n>connections</th><th class=n>requests</th>\
    <th class=n>errors</th><th class=n>reconnects</th></tr>\n";

const WORKERS_HEAD: &str =
    "<table><tr><th>worker</th><th class=n>clients</th><th class=n>requests</th><th class=n>buffered bytes</th></tr>\n";

/// The page for `status`.
pub(super) fn render(status: &Status) -> String {
    let mut page = String::with_capacity(4096 + 256 * status.shards.len());
    // Writing to a String cannot fail.
    let _ = write(&mut page, status);
    page
}

fn write(page: &mut String, status: &Status) -> fmt::Result {
    page.push_str(HEAD);
    writeln!(page, "<h1>Ringway {}</h1>", Escaped(status.version))?;
    let all_up = status.shards.iter().all(|shard| shard.state == State::Up);
    let class = match (status.ready, all_up) {
        (true, true) => "good",
        (true, false) => "warn",
        (false, _) => "bad",
    };
    let readiness = status.readiness();
    let mut lines = readiness.lines();
    writeln!(page, "<div class=\"verdict {class}\">{}</div>", Escaped(lines.next().unwrap_or_default()))?;
    for line in lines {
        writeln!(page, "<p><b>{}</b></p>", Escaped(line))?;
    }
    writeln!(
        page,
        "<p>Up for {}. Topology {}. Clients: {} connected, {} accepted, {} refused. Requests: {}, error replies: {}. Buffered bytes: {}.</p>",
        age(status.uptime_seconds),
        status.topology_version,
        status.clients.connected,
        status.clients.accepted,
        status.clients.refused,
        status.requests,
        status.error_replies,
        status.buffered_bytes,
    )?;
    page.push_str(SHARDS_HEAD);
    for shard in &status.shards {
        shard_row(page, shard)?;
    }
    page.push_str("</table>\n");
    page.push_str(WORKERS_HEAD);
    for (index, worker) in status.workers.iter().enumerate() {
        writeln!(
            page,
            "<tr><td>{index}</td><td class=n>{}</td><td class=n>{}</td><td class=n>{}</td></tr>",
            worker.clients, worker.requests, worker.buffered_bytes
        )?;
    }
    page.push_str("</table>\n");
    if let Some(advice) = status.advice.as_ref().filter(|advice| advice.refused + advice.gathered > 0) {
        writeln!(page, "<p><b>Keys that belong together</b></p>\n<pre>{}</pre>", Escaped(&advice.text))?;
    }
    page.push_str(FOOT);
    Ok(())
}

fn shard_row(page: &mut String, shard: &Shard) -> fmt::Result {
    let class = match shard.state {
        State::Up => "good",
        State::Partial => "warn",
        State::Down => "bad",
    };
    write!(
        page,
        "<tr><td>{}</td><td class={class}>{}</td><td>{}</td><td class=n>{}</td>",
        Escaped(&shard.name),
        shard.state.label(),
        Escaped(&shard.address),
        shard.weight,
    )?;
    match shard.slots {
        Some(slots) => write!(page, "<td class=n>{slots}</td>")?,
        None => page.push_str("<td class=n>&ndash;</td>"),
    }
    writeln!(
        page,
        "<td class=n>{:.1} %</td><td class=n>{}</td><td class=n>{}</td><td class=n>{}</td><td class=n>{}</td><td class=n>{}</td></tr>",
        shard.share * 100.0,
        shard.inflight,
        shard.connections,
        shard.requests,
        shard.errors,
        shard.reconnects,
    )
}

/// A duration in the two units that matter at its size.
fn age(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{} h {} min", seconds / 3600, seconds / 60 % 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds / 3600 % 24),
    }
}

impl Display for Escaped<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        for c in self.0.chars() {
            match c {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '"' => f.write_str("&quot;")?,
                '\'' => f.write_str("&#39;")?,
                c => f.write_char(c)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_break_out() {
        assert_eq!(Escaped("<b a=\"'&\">").to_string(), "&lt;b a=&quot;&#39;&amp;&quot;&gt;");
    }

    #[test]
    fn ages_have_two_units() {
        assert_eq!(age(59), "59 s");
        assert_eq!(age(61), "1 min 1 s");
        assert_eq!(age(3 * 3600 + 120), "3 h 2 min");
        assert_eq!(age(2 * 86_400 + 3600), "2 d 1 h");
    }
}

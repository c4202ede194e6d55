//! What serde cannot see: ranges, and names that must exist or be unique.

use std::fmt;
use std::time::Duration;

use crate::command::{self, Keys};
use crate::topology::{Endpoint, KeyHash, POINTS_MAX, POINTS_PER_WEIGHT, Pattern, SHARDS_MAX};

use super::source::{Field, Shape, Source};
use super::{Config, Keyless, PlacementKind, ReadyQuorum, presets};

/// A field, and what would be right.
pub(super) struct Mistake {
    pub(super) field: Field,
    pub(super) text: String,
}

pub(super) type Checked = Result<(), Mistake>;

pub(super) fn mistake<T>(field: Field, text: impl Into<String>) -> Result<T, Mistake> {
    Err(Mistake { field, text: text.into() })
}

/// What is written as `[[name]]`, and what as `[name]`.
pub(super) const LISTS: [&str; 3] = ["backend", "colocate", "user"];
const SECTIONS: [&str; 7] = ["proxy", "admin", "placement", "commands", "limits", "timeouts", "log"];

/// Finds the first name that is written as another shape than its own, which serde's words would not say.
pub(super) fn sections(source: &Source<'_>) -> Checked {
    for (name, shape) in source.shapes() {
        if LISTS.contains(&name) && shape != Shape::List {
            return mistake(Field::of(name), format!("must be written as [[{name}]], in two brackets"));
        }
        if SECTIONS.contains(&name) && shape != Shape::Section {
            return mistake(Field::of(name), format!("must be written as [{name}], once and in one bracket"));
        }
    }
    Ok(())
}

/// Finds the first mistake.
pub(super) fn check(config: &Config, source: &Source<'_>) -> Checked {
    proxy(config, source)?;
    backends(config, source)?;
    placement(config, source)?;
    colocate(config)?;
    commands(config)?;
    limits(config, source)?;
    timeouts(config, source)?;
    users(config)
}

fn proxy(config: &Config, source: &Source<'_>) -> Checked {
    let proxy = Field::of("proxy");
    if config.proxy.listen.is_empty() {
        return mistake(proxy.key("listen"), "must name at least one address, such as \"127.0.0.1:7379\"");
    }
    for (index, endpoint) in config.proxy.listen.iter().enumerate() {
        if let Some(earlier) = config.proxy.listen[..index].iter().position(|other| clash(other, endpoint)) {
            let text = format!("must be an address of its own, {endpoint} is listen[{earlier}] too");
            return mistake(proxy.key("listen").at(index), text);
        }
    }
    range(source, proxy.clone().key("threads"), config.proxy.threads, 0, 256)?;
    range(source, proxy.key("backlog"), config.proxy.backlog, 1, 65_535)?;
    let admin = Field::of("admin");
    if let Some(listen) = &config.admin.listen
        && config.proxy.listen.iter().any(|other| clash(other, listen))
    {
        let text = format!("must be an address of its own, {listen} is in proxy.listen too");
        return mistake(admin.key("listen"), text);
    }
    match config.admin.ready_quorum {
        ReadyQuorum::AtLeast(number) => {
            range(source, admin.key("ready_quorum"), number, 1, config.backend.len().max(1) as u32)
        }
        ReadyQuorum::All | ReadyQuorum::Majority => Ok(()),
    }
}

/// Whether two sockets cannot listen on both; port 0 is never the same port twice.
fn clash(a: &Endpoint, b: &Endpoint) -> bool {
    match (a, b) {
        (Endpoint::Tcp { port: 0, .. }, _) => false,
        (Endpoint::Tcp { host: a, port }, Endpoint::Tcp { host: b, port: other }) => {
            let every = |host: &str| host == "0.0.0.0" || host == "::";
            port == other && (a == b || every(a) || every(b))
        }
        (a, b) => a == b,
    }
}

fn backends(config: &Config, source: &Source<'_>) -> Checked {
    let backend = |index| Field::of("backend").at(index);
    let count = config.backend.len();
    if count == 0 {
        return mistake(Field::of("backend"), "is missing: add a [[backend]] with name and address");
    }
    if count > SHARDS_MAX {
        return mistake(Field::of("backend"), format!("must be 1 to {SHARDS_MAX} backends, are {count}"));
    }
    for (index, one) in config.backend.iter().enumerate() {
        let name = &one.name;
        let visible = name.bytes().all(|b| b.is_ascii_graphic() && !b"\"'\\`".contains(&b));
        if name.is_empty() || name.len() > 64 || !visible {
            let text = format!("must be 1 to 64 visible ASCII characters without quotes, is {name:?}");
            return mistake(backend(index).key("name"), text);
        }
        if let Some(meaning) = reserved(name) {
            let text = format!("must not be {name:?}, which means {meaning} in rules: choose another name");
            return mistake(backend(index).key("name"), text);
        }
        let earlier = &config.backend[..index];
        if let Some(earlier) = earlier.iter().position(|other| other.name == one.name) {
            let text = format!("must be unique, {name:?} is the name of backend[{earlier}] too");
            return mistake(backend(index).key("name"), text);
        }
        if let Some(earlier) = earlier.iter().position(|other| other.address == one.address) {
            let text = format!("must be unique, {} is the address of backend[{earlier}] too", one.address);
            return mistake(backend(index).key("address"), text);
        }
        range(source, backend(index).key("weight"), one.weight, 1, 1000)?;
        if let Some(listen) = config.proxy.listen.iter().find(|listen| **listen == one.address) {
            let text = format!("must not be the proxy itself, {listen} is in proxy.listen");
            return mistake(backend(index).key("address"), text);
        }
    }
    let points: u64 = config.backend.iter().map(|one| u64::from(one.weight) * POINTS_PER_WEIGHT).sum();
    if config.placement.kind == PlacementKind::Slots && points > POINTS_MAX {
        let most = config.backend.iter().enumerate().max_by_key(|(_, one)| one.weight);
        let weights = POINTS_MAX / POINTS_PER_WEIGHT;
        let text = format!(
            "must be smaller: all weights together may be {weights} ({POINTS_MAX} points on the ring), are {}",
            points / POINTS_PER_WEIGHT
        );
        return mistake(backend(most.map_or(0, |(index, _)| index)).key("weight"), text);
    }
    Ok(())
}

/// What a word means where a backend could be named.
fn reserved(name: &str) -> Option<&'static str> {
    match name {
        "home" => Some("the home shard"),
        "refuse" => Some("no shard"),
        _ => None,
    }
}

fn placement(config: &Config, source: &Source<'_>) -> Checked {
    let placement = &config.placement;
    let field = |key| Field::of("placement").key(key);
    if let Some(home) = &placement.home {
        known(config, field("home"), home)?;
    }
    if placement.version != 1 {
        let is = written(source, &field("version"), u64::from(placement.version));
        return mistake(field("version"), format!("must be 1, the only version, is {is}"));
    }
    for (index, name) in placement.presets.iter().enumerate() {
        if presets::rules(name).is_none() {
            let names: Vec<_> = presets::ALL.iter().map(|(name, _)| format!("\"{name}\"")).collect();
            return mistake(field("presets").at(index), format!("must be one of {}, is {name:?}", names.join(", ")));
        }
        if placement.presets[..index].contains(name) {
            return mistake(field("presets").at(index), format!("must be named once, {name:?} stands there twice"));
        }
    }
    let twemproxy = placement.kind != PlacementKind::Slots;
    if let Some(hash) = &placement.hash {
        if !twemproxy {
            return mistake(field("hash"), "belongs to kind = \"ketama\" or \"modula\", kind is \"slots\"");
        }
        if KeyHash::named(hash).is_none() {
            let names: Vec<_> = KeyHash::ALL.iter().map(|(name, _)| format!("\"{name}\"")).collect();
            let names = names.join(", ");
            return mistake(field("hash"), format!("must be one of {names}, is {hash:?}"));
        }
    }
    match placement.hash_tag.as_deref() {
        Some(_) if !twemproxy => {
            let text = "belongs to kind = \"ketama\" or \"modula\": kind is \"slots\", which always has \"{}\"";
            mistake(field("hash_tag"), text)
        }
        Some(tag) if tag.len() != 2 => {
            mistake(field("hash_tag"), format!("must be two ASCII characters such as \"{{}}\", is {tag:?}"))
        }
        _ => Ok(()),
    }
}

fn colocate(config: &Config) -> Checked {
    for (index, rule) in config.colocate.iter().enumerate() {
        let field = Field::of("colocate").at(index);
        let bad = |error| Mistake { field: field.clone().key("pattern"), text: format!("{error}") };
        let pattern = Pattern::parse(&rule.pattern).map_err(bad)?;
        match rule.shard.as_deref() {
            None => pattern.check_tag().map_err(bad)?,
            Some("home") => {}
            Some(name) => known(config, field.key("shard"), name)?,
        }
    }
    Ok(())
}

fn commands(config: &Config) -> Checked {
    let field = |key| Field::of("commands").key(key);
    let commands = &config.commands;
    for (name, target) in &commands.keyless {
        command_name(field("keyless").key(name), name)?;
        routed_anyway(field("keyless").key(name), name)?;
        if let Keyless::Shard(shard) = target {
            known_or_words(config, field("keyless").key(name), shard)?;
        }
    }
    if let Keyless::Shard(shard) = &commands.keyless_scripts {
        known_or_words(config, field("keyless_scripts"), shard)?;
    }
    for (index, name) in commands.deny.iter().enumerate() {
        let field = field("deny").at(index);
        command_name(field.clone(), name)?;
        // A name that means nothing would protect nothing.
        if command::named(name).next().is_none() {
            return mistake(field, format!("must be a command that Redis 7.0 has, such as \"KEYS\", is {name:?}"));
        }
    }
    Ok(())
}

/// The shape of a command's name; whether it exists is for the servers to say.
fn command_name(field: Field, name: &str) -> Checked {
    if !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-| ".contains(&b)) {
        return Ok(());
    }
    mistake(field, format!("must be the name of a command, such as \"KEYS\", is {name:?}"))
}

/// Only commands that the table does not know are looked for in `keyless`, and unknown subcommands of those
/// that it knows.
fn routed_anyway(field: Field, name: &str) -> Checked {
    let row = command::named(name).map(command::row).find(|row| row.name.len() == name.len());
    let Some(row) = row.filter(|row| row.children.is_empty()) else { return Ok(()) };
    let name = row.name.to_uppercase().replace('|', " ");
    let goes = match row.keys {
        Keys::None => format!("what becomes of {name} is settled"),
        _ => format!("{name} goes where its keys are"),
    };
    mistake(field, format!("must be a command that Redis 7.0 does not have, such as \"FT.SEARCH\": {goes}"))
}

fn limits(config: &Config, source: &Source<'_>) -> Checked {
    let limits = &config.limits;
    let field = |key| Field::of("limits").key(key);
    let range = |field, number, least, most| range(source, field, number, least, most);
    range(field("clients_max"), limits.clients_max, 1, 1_000_000)?;
    range(field("client_inflight_max"), limits.client_inflight_max, 1, 65_536)?;
    range(field("backend_inflight_max"), limits.backend_inflight_max, 1, 1_000_000)?;
    range(field("leases_max"), limits.leases_max, 1, 10_000)?;
    range(field("transaction_leases_max"), limits.transaction_leases_max, 1, 10_000)?;
    const KIB: u64 = 1 << 10;
    // Redis' own limits end here, and sizes of a request are kept in 32 bits.
    const MOST: u64 = u32::MAX as u64;
    let client = ("client_output_bytes_max", limits.client_output_bytes_max);
    let client_hard = ("client_output_hard_bytes_max", limits.client_output_hard_bytes_max);
    let soft = ("subscriber_output_soft_bytes_max", limits.subscriber_output_soft_bytes_max);
    let hard = ("subscriber_output_hard_bytes_max", limits.subscriber_output_hard_bytes_max);
    let request = ("request_bytes_max", limits.request_bytes_max);
    let query = ("query_buffer_bytes_max", limits.query_buffer_bytes_max);
    for ((key, bytes), least) in [
        (("cross_shard_max_bytes", limits.cross_shard_max_bytes), 1),
        (client, 4 * KIB),
        (client_hard, 4 * KIB),
        (soft, 4 * KIB),
        (hard, 4 * KIB),
        (("backend_buffer_bytes_max", limits.backend_buffer_bytes_max), 16 * KIB),
        (request, 1024 * KIB),
        (query, 1024 * KIB),
    ] {
        if !(least..=MOST).contains(&bytes) {
            let is = written(source, &field(key), bytes);
            return mistake(field(key), format!("must be {least} to {MOST} bytes, is {is}"));
        }
    }
    for ((small, least), (large, most)) in [(client, client_hard), (soft, hard), (request, query)] {
        ordered(source, (field(small), Size(least)), (field(large), Size(most)))?;
    }
    Ok(())
}

fn timeouts(config: &Config, source: &Source<'_>) -> Checked {
    const DAY: u64 = 86_400;
    let timeouts = &config.timeouts;
    let field = |key| Field::of("timeouts").key(key);
    for (key, duration, most) in
        [("client_idle", timeouts.client_idle, 365 * DAY), ("shutdown", timeouts.shutdown, DAY)]
    {
        if duration.as_secs() > most {
            let is = written(source, &field(key), duration.as_secs());
            return mistake(field(key), format!("must be at most {}h, is {is}", most / 3600));
        }
    }
    for (key, duration) in [
        ("connect", timeouts.connect),
        ("reconnect_min", timeouts.reconnect_min),
        ("reconnect_max", timeouts.reconnect_max),
        ("request", timeouts.request),
        ("script", timeouts.script),
        ("subscriber_output", timeouts.subscriber_output),
    ] {
        if duration.is_zero() || duration > Duration::from_secs(DAY) {
            let is = written(source, &field(key), duration.as_secs());
            return mistake(field(key), format!("must be more than 0 and at most 24h, is {is}"));
        }
    }
    let (min, max) = (Span(timeouts.reconnect_min), Span(timeouts.reconnect_max));
    ordered(source, (field("reconnect_min"), min), (field("reconnect_max"), max))
}

/// Of two fields that one must not be more than the other: blames the one that is in the file.
fn ordered<T: PartialOrd + fmt::Display>(source: &Source<'_>, small: (Field, T), large: (Field, T)) -> Checked {
    if small.1 <= large.1 {
        return Ok(());
    }
    let key = |field: &Field| field.last_key().unwrap_or_default().to_owned();
    let shown = |(field, value): &(Field, T)| match source.written(field) {
        Some(text) => text.to_owned(),
        None => format!("{value} by default"),
    };
    let (least, most) = (shown(&small), shown(&large));
    if source.written(&large.0).is_some() {
        let text = format!("must be at least {} ({least}), is {most}", key(&small.0));
        return mistake(large.0, text);
    }
    let text = format!("must be at most {} ({most}), is {least}", key(&large.0));
    mistake(small.0, text)
}

/// A number of bytes as one writes it.
#[derive(PartialEq, PartialOrd)]
struct Size(u64);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            bytes if bytes % (1 << 30) == 0 => write!(f, "\"{}GiB\"", bytes >> 30),
            bytes if bytes % (1 << 20) == 0 => write!(f, "\"{}MiB\"", bytes >> 20),
            bytes => write!(f, "{bytes}"),
        }
    }
}

/// A duration as one writes it.
#[derive(PartialEq, PartialOrd)]
struct Span(Duration);

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{:?}\"", self.0)
    }
}

fn users(config: &Config) -> Checked {
    for (index, user) in config.user.iter().enumerate() {
        let field = Field::of("user").at(index);
        let name = &user.name;
        if name.is_empty() || name.bytes().any(|b| b.is_ascii_whitespace() || b == 0) {
            return mistake(field.key("name"), format!("must be a name without spaces, is {name:?}"));
        }
        if let Some(earlier) = config.user[..index].iter().position(|other| other.name == *name) {
            let text = format!("must be unique, {name:?} is the name of user[{earlier}] too");
            return mistake(field.key("name"), text);
        }
        if user.password.is_none() && user.password_env.is_none() && user.password_file.is_none() {
            return mistake(field.key("password"), "is missing: give password, password_env or password_file");
        }
    }
    Ok(())
}

fn range(source: &Source<'_>, field: Field, number: u32, least: u32, most: u32) -> Checked {
    if (least..=most).contains(&number) {
        return Ok(());
    }
    let is = written(source, &field, u64::from(number));
    mistake(field, format!("must be {least} to {most}, is {is}"))
}

/// A field's value in the file's own words.
fn written(source: &Source<'_>, field: &Field, otherwise: u64) -> String {
    source.written(field).map_or_else(|| otherwise.to_string(), str::to_owned)
}

fn known(config: &Config, field: Field, name: &str) -> Checked {
    if config.backend.iter().any(|backend| backend.name == name) {
        return Ok(());
    }
    mistake(field, format!("must be the name of a backend ({}), is {name:?}", names(config)))
}

fn known_or_words(config: &Config, field: Field, name: &str) -> Checked {
    if config.backend.iter().any(|backend| backend.name == name) {
        return Ok(());
    }
    let names = names(config);
    mistake(field, format!("must be \"home\", \"refuse\" or the name of a backend ({names}), is {name:?}"))
}

/// The backends' names, the first few of them.
fn names(config: &Config) -> String {
    let mut names: Vec<&str> = config.backend.iter().take(8).map(|one| one.name.as_str()).collect();
    if config.backend.len() > names.len() {
        names.push("...");
    }
    names.join(", ")
}

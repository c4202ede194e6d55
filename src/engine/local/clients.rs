//! CLIENT INFO, LIST and KILL: clients, told as Redis 7.0 tells them.
//!
//! A worker sees its own clients; the other workers are asked for theirs (`peers.rs`), and give each
//! line with its client's id, or the number of those killed. What the proxy does not measure (`qbuf-free`, `argv-mem`, `rbs`, `rbp`, `oll`) is 0,
//! and `fd` is the client's place in the worker, since the engine knows no descriptors.

use std::fmt::Write;

use super::super::client::{Client, End, NO_COMMAND, Park};
use super::super::failure::said;
use super::super::merge;
use super::super::{Engine, Order};
use super::SYNTAX;
use crate::command;
use crate::resp::{Args, Proto, Reply, integer};

const NO_ID: &str = "ERR Invalid client ID";
const NO_POSITIVE_ID: &str = "ERR client-id should be greater than 0";
pub(in crate::engine) const NO_CLIENT: &str = "ERR No such client";

/// Redis' types of clients; the last two never connect to a proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Type {
    Normal,
    Pubsub,
    Replica,
    Master,
}

/// Which clients CLIENT KILL is about: all that fit every filter given.
#[derive(Debug, Default)]
struct Filter<'a> {
    id: Option<i64>,
    of: Option<Type>,
    peer: Option<&'a [u8]>,
    local: Option<&'a [u8]>,
    user: Option<&'a [u8]>,
    spare_self: bool,
}

impl Engine {
    pub(super) fn client_info(&mut self, id: u32, args: Args<'_>, out: &mut Vec<u8>) -> Result<(), Vec<u8>> {
        let client = &self.clients[id as usize];
        let mut lines = Vec::new();
        self.line(id, client, args.bytes(), &mut lines);
        Reply::new(out, client.proto).verbatim(&lines);
        Ok(())
    }

    /// CLIENT LIST among the clients of a transaction's worker.
    pub(super) fn client_list(&mut self, id: u32, args: Args<'_>, out: &mut Vec<u8>) -> Result<(), Vec<u8>> {
        let mut part = Vec::new();
        self.lines(id, args, &mut part)?;
        let wanted = wanted_ids(args).unwrap_or_default();
        Reply::new(out, self.clients[id as usize].proto).verbatim(merge::lines(&[part], &wanted));
        Ok(())
    }

    /// The ids and lines of the clients that CLIENT LIST is about, as a part of its reply; client `own` asks.
    pub(super) fn lines(&self, own: u32, args: Args<'_>, out: &mut Vec<u8>) -> Result<(), Vec<u8>> {
        let ids = wanted_ids(args)?;
        let of = match args.len() {
            2 => None,
            _ if !ids.is_empty() => None,
            4 if args.is(2, "type") => Some(Type::read(args.at(3))?),
            _ => return Err(SYNTAX.into()),
        };
        let fits = |(_, client): &(usize, &Client)| {
            of.is_none_or(|of| of == Type::of(client)) && (ids.is_empty() || ids.contains(&(client.about.id as i64)))
        };
        let clients: Vec<_> = self.clients.iter().filter(fits).collect();
        let mut reply = Reply::new(out, Proto::Resp2);
        reply.array(2 * clients.len());
        for (index, client) in clients {
            let mut line = Vec::new();
            let request = if index as u32 == own { args.bytes() } else { 0 };
            self.line(index as u32, client, request, &mut line);
            reply.integer(client.about.id as i64).bulk(line);
        }
        Ok(())
    }

    pub(super) fn client_kill(&mut self, id: u32, args: Args<'_>, out: &mut Vec<u8>) -> Result<(), Vec<u8>> {
        let old_form = args.len() == 3;
        let killed = self.kill(id, args)?;
        let mut reply = Reply::new(out, Proto::Resp2);
        match killed {
            0 if old_form => return Err(NO_CLIENT.into()),
            _ if old_form => reply.status("OK"),
            count => reply.integer(count),
        };
        Ok(())
    }

    /// How many of this worker's clients CLIENT KILL ended; `id` is the one that asks, if it is here.
    pub(super) fn kill(&mut self, id: u32, args: Args<'_>) -> Result<i64, Vec<u8>> {
        let old_form = args.len() == 3;
        let filter = if old_form { Filter { peer: Some(args.at(2)), ..Filter::default() } } else { self.filter(args)? };
        let fits = |(index, client): &(usize, &Client)| {
            client.end != End::Closing && filter.fits(client) && !(filter.spare_self && *index == id as usize)
        };
        let killed: Vec<u32> = self.clients.iter().filter(fits).map(|(index, _)| index as u32).collect();
        for other in &killed {
            let client = &mut self.clients[*other as usize];
            client.end = End::Closing;
            if *other != id {
                // Nothing is owed to it any more.
                client.out.clear();
                self.orders.push_back(Order::CloseClient { client: *other });
            }
        }
        Ok(killed.len() as i64)
    }

    fn filter<'a>(&self, args: Args<'a>) -> Result<Filter<'a>, Vec<u8>> {
        let mut filter = Filter { spare_self: true, ..Filter::default() };
        for at in (2..args.len()).step_by(2) {
            if at + 1 == args.len() {
                return Err(SYNTAX.into());
            }
            let value = args.at(at + 1);
            match () {
                () if args.is(at, "id") => {
                    filter.id = Some(integer(value).filter(|number| *number > 0).ok_or(NO_POSITIVE_ID)?);
                }
                () if args.is(at, "type") => filter.of = Some(Type::read(value)?),
                () if args.is(at, "addr") => filter.peer = Some(value),
                () if args.is(at, "laddr") => filter.local = Some(value),
                () if args.is(at, "user") => {
                    let known = |user: &super::super::User| user.name.as_bytes() == value;
                    if value != b"default" && !self.options.users.iter().any(known) {
                        return Err([b"ERR No such user '", said(value, usize::MAX), b"'"].concat());
                    }
                    filter.user = Some(value);
                }
                () if args.is(at, "skipme") && args.is(at + 1, "yes") => filter.spare_self = true,
                () if args.is(at, "skipme") && args.is(at + 1, "no") => filter.spare_self = false,
                () => return Err(SYNTAX.into()),
            }
        }
        Ok(filter)
    }

    /// One client's line, in the order and with the names of Redis 7.0; `request` bytes are being carried out.
    fn line(&self, index: u32, client: &Client, request: usize, out: &mut Vec<u8>) {
        let about = &client.about;
        let seconds = |since: u64| self.now.saturating_sub(since) / 1_000_000;
        let (sub, psub, ssub) = client.subscriptions();
        let multi = client.session.as_ref().and_then(|session| session.multi.as_ref());
        let queued = multi.map_or(-1, |multi| multi.len() as i64);
        let multi_bytes = multi.map_or(0, super::super::session::Multi::bytes);
        let pending = client.out.len();
        let mut line = format!("id={} addr={} laddr={} fd={index} name=", about.id, about.peer, about.local);
        out.extend_from_slice(line.as_bytes());
        out.extend_from_slice(&about.name);
        line.clear();
        // Writing to a String cannot fail.
        let _ = write!(
            line,
            " age={} idle={} flags={} db={} sub={sub} psub={psub} ssub={ssub} multi={queued} qbuf={} qbuf-free=0 \
             argv-mem=0 multi-mem={multi_bytes} rbs=0 rbp=0 obl={pending} oll=0 omem={} tot-mem={} events={} cmd={} \
             user={} redir={} resp={}",
            seconds(about.since),
            seconds(about.active),
            flags(client, self.tracking_flags(index)),
            client.db,
            client.inbox.len().max(request),
            client.undelivered(),
            client.buffered() + multi_bytes,
            if pending == 0 { "r" } else { "rw" },
            if client.last == NO_COMMAND { "NULL" } else { command::row(client.last).name },
            if about.user.is_empty() { "default" } else { &about.user },
            self.redirection(index),
            if client.proto == Proto::Resp3 { 3 } else { 2 },
        );
        out.extend_from_slice(line.as_bytes());
        for (name, value) in [(" lib-name=", &about.lib_name), (" lib-ver=", &about.lib_version)] {
            if !value.is_empty() {
                out.extend_from_slice(name.as_bytes());
                out.extend_from_slice(value);
            }
        }
        out.push(b'\n');
    }
}

/// The ids that CLIENT LIST names, in their order; none when it names no id.
pub(super) fn wanted_ids(args: Args<'_>) -> Result<Vec<i64>, Vec<u8>> {
    if args.len() <= 3 || !args.is(2, "id") {
        return Ok(Vec::new());
    }
    args.iter().skip(3).map(|word| integer(word).ok_or_else(|| NO_ID.into())).collect()
}

impl Client {
    /// Channels, patterns and shard channels that it has subscribed to.
    fn subscriptions(&self) -> (usize, usize, usize) {
        self.session.as_ref().map_or((0, 0, 0), |session| session.subscriptions.sizes())
    }
}

impl Type {
    fn read(word: &[u8]) -> Result<Self, Vec<u8>> {
        match word.to_ascii_lowercase().as_slice() {
            b"normal" => Ok(Self::Normal),
            b"pubsub" => Ok(Self::Pubsub),
            b"replica" | b"slave" => Ok(Self::Replica),
            b"master" => Ok(Self::Master),
            _ => Err([b"ERR Unknown client type '", said(word, usize::MAX), b"'"].concat()),
        }
    }

    fn of(client: &Client) -> Self {
        if client.subscriptions() == (0, 0, 0) { Self::Normal } else { Self::Pubsub }
    }
}

impl Filter<'_> {
    fn fits(&self, client: &Client) -> bool {
        let about = &client.about;
        let user = if about.user.is_empty() { "default" } else { &about.user };
        self.id.is_none_or(|number| about.id as i64 == number)
            && self.of.is_none_or(|of| Type::of(client) == of)
            && self.peer.is_none_or(|peer| about.peer.as_bytes() == peer)
            && self.local.is_none_or(|local| about.local.as_bytes() == local)
            && self.user.is_none_or(|name| user.as_bytes() == name)
    }
}

/// Redis' letters for the state of a client.
fn flags(client: &Client, [tracks, broken, bcast]: [bool; 3]) -> String {
    let session = client.session.as_ref();
    let blocked = client.park == Park::Held || session.is_some_and(|session| session.is_blocked());
    let letters = [
        ('O', session.is_some_and(|session| session.monitors)),
        ('P', Type::of(client) == Type::Pubsub),
        ('x', session.is_some_and(|session| session.multi.is_some())),
        ('b', blocked),
        ('t', tracks),
        ('R', broken),
        ('B', bcast),
        ('c', client.end == End::Closing),
        ('U', client.about.peer.starts_with('/')),
        ('e', client.about.no_evict),
        ('T', client.about.no_touch),
    ];
    let set: String = letters.iter().filter(|(_, set)| *set).map(|(letter, _)| letter).collect();
    if set.is_empty() { "N".to_owned() } else { set }
}

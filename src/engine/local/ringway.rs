//! RINGWAY: what the proxy tells about itself, and an admin's way to one shard.

use super::super::Engine;
use super::super::client::{Park, State};
use super::super::conn::Link;
use super::super::request::{Flow, Request};
use crate::command::{self, Class, Flags};
use crate::resp::{Args, Reply, request};
use crate::topology::ShardId;

const HELP: &[&str] = &[
    "RINGWAY <subcommand> [<arg> [value] [opt] ...]. Subcommands are:",
    "ADVISE",
    "    Colocate rules that would have avoided the refusals and gathers so far, ready to paste.",
    "LOCATE <key> [<key> ...]",
    "    The tag, slot, shard and address of each key, and why it is there.",
    "SHARD <name> <command> [<arg> ...]",
    "    Admins only: run a command on one shard, on a connection that is closed afterwards.",
    "SHARDS",
    "    Name, address, weight, slots, share, state, version and requests in flight of each shard.",
    "HELP",
    "    Print this help.",
];

impl Engine {
    /// All but SHARD, which has no immediate answer.
    pub(super) fn ringway(&mut self, id: u32, args: Args<'_>, out: &mut Vec<u8>) -> Result<(), Vec<u8>> {
        let proto = self.clients[id as usize].proto;
        let mut reply = Reply::new(out, proto);
        let exact = args.len() == 2;
        match args.at(1).to_ascii_lowercase().as_slice() {
            b"help" if exact => {
                reply.array(HELP.len());
                HELP.iter().for_each(|line| _ = reply.status(line));
            }
            b"advise" if exact => _ = reply.verbatim(self.advice_report().text),
            b"shards" if exact => self.shards(&mut reply),
            b"locate" if !exact => self.locate(args, &mut reply),
            b"shard" => return Err("ERR RINGWAY SHARD cannot be part of a transaction".into()),
            name @ (b"help" | b"advise" | b"shards" | b"locate") => {
                let name = String::from_utf8_lossy(name);
                return Err(format!("ERR wrong number of arguments for 'ringway|{name}' command").into());
            }
            _ => {
                let asked = super::said(args.at(1), 128);
                return Err([b"ERR unknown subcommand '", asked, b"'. Try RINGWAY HELP."].concat());
            }
        }
        Ok(())
    }

    fn locate(&self, args: Args<'_>, reply: &mut Reply<'_>) {
        reply.array(args.len() - 2);
        for key in args.iter().skip(2) {
            let place = self.topology.locate(key);
            let shard = self.topology.shard(place.shard);
            reply.map(6).bulk("key").bulk(key).bulk("tag").bulk(place.tag).bulk("slot");
            match place.slot {
                Some(slot) => reply.integer(i64::from(slot.0)),
                None => reply.null(),
            };
            reply.bulk("shard").bulk(&shard.name).bulk("address").bulk(shard.endpoint.to_string());
            reply.bulk("why").bulk(place.why.to_string());
        }
    }

    /// The state and what is in flight are this worker's.
    fn shards(&self, reply: &mut Reply<'_>) {
        reply.array(self.shards.len());
        for (index, state) in self.shards.iter().enumerate() {
            let id = ShardId(index as u16);
            let shard = self.topology.shard(id);
            let link = self.conns.get(state.shared[0] as usize).map(|conn| conn.link);
            let word = match link {
                Some(Link::Up | Link::Stalled) => "up",
                Some(Link::Busy) => "busy",
                Some(Link::Connecting | Link::Greeting) => "connecting",
                Some(Link::Down | Link::Knocking) | None => "down",
            };
            let inflight: usize =
                self.conns.iter().filter(|(_, conn)| conn.shard == id).map(|(_, conn)| conn.fifo.len()).sum();
            reply.map(8).bulk("name").bulk(&shard.name).bulk("address").bulk(shard.endpoint.to_string());
            reply.bulk("weight").integer(i64::from(shard.weight));
            reply.bulk("slots").integer(i64::from(self.topology.slots_of(id)));
            reply.bulk("share").bulk(format!("{:.4}", self.topology.share(id)));
            reply.bulk("state").bulk(word).bulk("version");
            match &state.version {
                Some(version) => reply.bulk(version),
                None => reply.null(),
            };
            reply.bulk("inflight").integer(inflight as i64);
        }
    }

    /// Runs an admin's words on one shard, on a lease that nobody gets afterwards: whatever they did
    /// to the connection ends with it.
    pub(super) fn ringway_shard(&mut self, id: u32, request: &Request<'_>) -> Flow {
        let args = request.args;
        if let Err(text) = self.check_admin(id, "RINGWAY SHARD") {
            return self.answer_error(id, text);
        }
        if args.len() < 4 {
            return self.answer_error(id, "ERR wrong number of arguments for 'ringway|shard' command");
        }
        let named = std::str::from_utf8(args.at(2)).ok().and_then(|name| self.topology.named(name));
        let Some(shard) = named else {
            let names: Vec<&str> = self.topology.shards().iter().map(|shard| shard.name.as_str()).collect();
            let asked = String::from_utf8_lossy(super::said(args.at(2), 64)).into_owned();
            let text = format!("ERR no shard is called '{asked}': there are {}", names.join(", "));
            return self.answer_error(id, text);
        };
        let client = &self.clients[id as usize];
        if !client.slots.is_empty() {
            return Flow::Parked(Park::Empty);
        }
        let (proto, db) = (client.proto, client.db);
        let conn = match self.lease(id, shard, proto, db, false) {
            Ok(conn) => conn,
            Err(flow) => return flow,
        };
        let client = &mut self.clients[id as usize];
        client.exclusive = true;
        client.session_mut().blocked = conn;
        let seq = client.open(State::Wait, Class::Session, self.now);
        let words: Vec<&[u8]> = args.iter().skip(3).collect();
        self.expect(conn, id, seq, 0, true);
        let lease = &mut self.conns[conn as usize];
        lease.out.write(|out| self::request(out, &words));
        lease.tainted = true;
        let row = command::lookup(words[0]).map(command::row);
        lease.patient = row.is_some_and(|row| row.flags.has(Flags::BLOCKING));
        Flow::Taken
    }

    /// Whether the client may do what is for admins, called `what`.
    pub(in crate::engine) fn check_admin(&self, id: u32, what: &str) -> Result<(), String> {
        let about = &self.clients[id as usize].about;
        let users = &self.options.users;
        if users.is_empty() {
            return match (self.options.admin, about.trusted) {
                (true, true) => Ok(()),
                (true, false) => Err(format!(
                    "NOPERM {what} is for admins, who connect over loopback or a unix socket while no [[user]] is \
                     configured"
                )),
                (false, _) => Err(format!(
                    "NOPERM {what} is for admins: [commands] admin = true makes local clients admins, [[user]] admin = \
                     true a user"
                )),
            };
        }
        match users.iter().any(|user| user.admin && user.name == about.user) {
            true => Ok(()),
            false => Err(format!("NOPERM {what} is for admins: user '{}' has no admin = true", about.user)),
        }
    }
}

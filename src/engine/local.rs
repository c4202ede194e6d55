//! Commands that the proxy answers itself: they concern the client's connection, not the data.
//!
//! Texts are those of Redis 7.0. A reply is written as one frame by `tell`, so that it can also stand
//! in its place among a transaction's; what has no immediate reply is taken out before that.

mod advise;
mod clients;
mod everybody;
mod pause;
mod ringway;
#[cfg(test)]
pub(super) mod tests;

pub(super) use advise::Advice;
pub(super) use clients::NO_CLIENT;
pub(super) use pause::{Pause, READERS, Readers};

use super::client::{End, Park};
use super::failure::said;
use super::request::{Flow, Request};
use super::{Engine, NONE};
use crate::command::Local;
use crate::resp::{Args, Limits, Proto, Reply, RequestScanner, integer};

const SYNTAX: &str = "ERR syntax error";
const NO_INTEGER: &str = "ERR value is not an integer or out of range";
const NO_INT: &str = "ERR value is out of range, value must between -2147483648 and 2147483647";
const NO_CLUSTER: &str = "ERR This instance has cluster support disabled";
const BAD_NAME: &str = "ERR Client names cannot contain spaces, newlines or special characters.";
const WRONG_PASSWORD: &str = "WRONGPASS invalid username-password pair or user is disabled.";
const NO_PASSWORD: &str = "ERR AUTH <password> called without any password configured for the default user. Are you sure your configuration is correct?";
const HELLO_NOAUTH: &str = "NOAUTH HELLO must be called with the client already authenticated, otherwise the HELLO AUTH <user> <pass> option can be used to authenticate the client and select the RESP protocol version at the same time";

impl Engine {
    pub(super) fn local(&mut self, id: u32, what: Local, request: &Request<'_>) -> Flow {
        let flow = self.carry_out(id, what, request);
        if flow == Flow::Taken {
            self.log_own(id, what, request);
        }
        flow
    }

    fn carry_out(&mut self, id: u32, what: Local, request: &Request<'_>) -> Flow {
        let args = request.args;
        if let Some(text) = self.busy_home(request) {
            return self.answer_error(id, text);
        }
        if what == Local::Ping
            && let Some(flow) = self.ping_privates(id, request)
        {
            return flow;
        }
        match what {
            Local::Ping if args.len() == 1 => self.answer(id, |reply| _ = reply.status("PONG")),
            Local::Quit => {
                self.answer(id, |reply| _ = reply.status("OK"));
                self.hang_up(id);
                Flow::Taken
            }
            // What these change concerns the replies that are still to come.
            Local::Hello | Local::Reset | Local::Select | Local::Auth
                if !self.clients[id as usize].slots.is_empty() =>
            {
                Flow::Parked(Park::Empty)
            }
            Local::ClientTracking => self.client_tracking(id, request),
            Local::ClientReply => self.client_reply(id, args),
            Local::ClientUnblock => self.client_unblock(id, request),
            Local::ClientList | Local::ClientKill | Local::ClientPause | Local::ClientUnpause if self.peers() > 0 => {
                self.told_by_all(id, what, request)
            }
            Local::Ringway if args.is(1, "shard") => self.ringway_shard(id, request),
            _ => {
                let bytes = self.tell(id, what, args);
                if let [b'-', text @ ..] = bytes.as_slice() {
                    return self.answer_error(id, text.strip_suffix(b"\r\n").unwrap_or(text));
                }
                let flow = self.answer(id, |reply| _ = reply.raw(&bytes));
                if self.clients[id as usize].end == End::Closing {
                    // It killed itself, and gets the reply before it goes.
                    self.close_if_finished(id);
                }
                flow
            }
        }
    }

    /// The reply to a command that stood in a transaction, as one whole frame.
    pub(super) fn told(&mut self, id: u32, what: Local, frame: &[u8]) -> Vec<u8> {
        let mut spans = Vec::new();
        let told = match RequestScanner::default().scan(frame, &Limits::default(), true, &mut spans) {
            Ok(_) => self.tell(id, what, Args::new(frame, &spans)),
            Err(_) => b"$-1\r\n".to_vec(),
        };
        self.caching_over(id);
        told
    }

    /// Carries the command out and returns its reply.
    fn tell(&mut self, id: u32, what: Local, args: Args<'_>) -> Vec<u8> {
        let mut out = Vec::new();
        let result = match what {
            Local::Hello => self.hello(id, args, &mut out),
            Local::Auth => self.auth(id, args, &mut out),
            Local::Select => self.select(id, args, &mut out),
            Local::Reset => self.reset(id, &mut out),
            Local::ClientInfo => self.client_info(id, args, &mut out),
            Local::ClientList => self.client_list(id, args, &mut out),
            Local::ClientKill => self.client_kill(id, args, &mut out),
            Local::ClientPause => self.client_pause(args, &mut out),
            Local::ClientUnpause => {
                self.end_pause();
                Reply::new(&mut out, Proto::Resp2).status("OK");
                Ok(())
            }
            Local::ClientTracking => self.tracking_inside(id, args, &mut out),
            Local::ClientCaching => self.client_caching(id, args, &mut out),
            Local::ClientTrackingInfo => {
                self.tracking_info(id, &mut Reply::new(&mut out, self.clients[id as usize].proto));
                Ok(())
            }
            Local::ClientGetRedir => {
                Reply::new(&mut out, Proto::Resp2).integer(self.redirection(id));
                Ok(())
            }
            Local::Ringway => self.ringway(id, args, &mut out),
            _ => self.report(id, what, args, &mut out),
        };
        if let Err(text) = result {
            out.clear();
            Reply::new(&mut out, Proto::Resp2).error(&text);
        }
        out
    }

    fn report(&mut self, id: u32, what: Local, args: Args<'_>, out: &mut Vec<u8>) -> Result<(), Vec<u8>> {
        let now = self.now;
        let epoch = self.options.epoch;
        let client = &mut self.clients[id as usize];
        let mut reply = Reply::new(out, client.proto);
        match what {
            Local::Ping if args.len() == 2 => _ = reply.bulk(args.at(1)),
            Local::Ping => return Err("ERR wrong number of arguments for 'ping' command".into()),
            Local::Echo => _ = reply.bulk(args.at(1)),
            Local::Time => {
                let unix = epoch + now;
                _ = reply.array(2).bulk((unix / 1_000_000).to_string()).bulk((unix % 1_000_000).to_string());
            }
            Local::ReadOnly | Local::ReadWrite | Local::Asking | Local::Cluster => return Err(NO_CLUSTER.into()),
            Local::Role => _ = reply.array(3).bulk("master").integer(0).array(0),
            Local::AclWhoAmI => {
                let user = if client.about.user.is_empty() { "default" } else { &client.about.user };
                _ = reply.bulk(user);
            }
            Local::ClientId => _ = reply.integer(client.about.id as i64),
            Local::ClientGetName if client.about.name.is_empty() => _ = reply.null(),
            Local::ClientGetName => _ = reply.bulk(&client.about.name),
            Local::ClientSetName => {
                client.about.name = client_name(args.at(2))?;
                _ = reply.status("OK");
            }
            Local::ClientSetInfo => {
                let value = args.at(3);
                let (option, place) = match () {
                    () if args.is(2, "lib-name") => ("lib-name", &mut client.about.lib_name),
                    () if args.is(2, "lib-ver") => ("lib-ver", &mut client.about.lib_version),
                    () => return Err([b"ERR Unrecognized option '", said(args.at(2), 128), b"'"].concat()),
                };
                if value.iter().any(|byte| !(b'!'..=b'~').contains(byte)) {
                    return Err(format!("ERR {option} cannot contain spaces, newlines or special characters.").into());
                }
                *place = value.to_vec();
                _ = reply.status("OK");
            }
            Local::ClientNoEvict => {
                client.about.no_evict = on_off(args.at(2))?;
                _ = reply.status("OK");
            }
            Local::ClientNoTouch => {
                client.about.no_touch = on_off(args.at(2))?;
                _ = reply.status("OK");
            }
            Local::ClientReply | Local::ClientUnblock => {
                let name = String::from_utf8_lossy(args.at(1)).to_uppercase();
                return Err(format!("ERR CLIENT {name} cannot be part of a transaction through Ringway").into());
            }
            _ => return Err("ERR this command is not available through Ringway yet".into()),
        }
        Ok(())
    }

    fn hello(&mut self, id: u32, args: Args<'_>, out: &mut Vec<u8>) -> Result<(), Vec<u8>> {
        let mut proto = self.clients[id as usize].proto;
        let mut at = 1;
        if args.len() > 1 {
            proto = match integer(args.at(1)) {
                Some(2) => Proto::Resp2,
                Some(3) => Proto::Resp3,
                Some(_) => return Err("NOPROTO unsupported protocol version".into()),
                None => return Err("ERR Protocol version is not an integer or out of range".into()),
            };
            at = 2;
        }
        // As in Redis, options before a wrong one have taken effect.
        while at < args.len() {
            if args.is(at, "auth") && at + 2 < args.len() {
                self.log_in(id, args.at(at + 1), args.at(at + 2))?;
                at += 3;
            } else if args.is(at, "setname") && at + 1 < args.len() {
                self.clients[id as usize].about.name = client_name(args.at(at + 1))?;
                at += 2;
            } else {
                return Err([b"ERR Syntax error in HELLO option '", said(args.at(at), usize::MAX), b"'"].concat());
            }
        }
        if !self.clients[id as usize].is_authenticated() {
            return Err(HELLO_NOAUTH.into());
        }
        let version = self.server_version();
        let client = &mut self.clients[id as usize];
        let changed = client.proto != proto;
        client.proto = proto;
        let number = client.about.id as i64;
        if changed {
            self.lease_speaks(id, proto);
        }
        let mut reply = Reply::new(out, proto);
        reply.map(7);
        reply.bulk("server").bulk("redis").bulk("version").bulk(version);
        reply.bulk("proto").integer(if proto == Proto::Resp3 { 3 } else { 2 });
        reply.bulk("id").integer(number).bulk("mode").bulk("standalone").bulk("role").bulk("master");
        reply.bulk("modules").array(0);
        Ok(())
    }

    fn auth(&mut self, id: u32, args: Args<'_>, out: &mut Vec<u8>) -> Result<(), Vec<u8>> {
        match args.len() {
            2 if self.options.users.is_empty() => return Err(NO_PASSWORD.into()),
            2 => self.log_in(id, b"default", args.at(1))?,
            3 => self.log_in(id, args.at(1), args.at(2))?,
            _ => return Err(SYNTAX.into()),
        }
        Reply::new(out, Proto::Resp2).status("OK");
        Ok(())
    }

    fn log_in(&mut self, id: u32, user: &[u8], password: &[u8]) -> Result<(), Vec<u8>> {
        // Without users, Redis' default user has no password: any will do.
        let anybody = self.options.users.is_empty() && user == b"default";
        let matches = |known: &&super::User| known.name.as_bytes() == user && same(known.password.as_bytes(), password);
        let Some(name) = self.options.users.iter().find(matches).map(|user| user.name.clone()) else {
            return if anybody { Ok(()) } else { Err(WRONG_PASSWORD.into()) };
        };
        let client = &mut self.clients[id as usize];
        client.about.user = name;
        client.session_mut().authenticated = true;
        self.drop_plain_session(id);
        Ok(())
    }

    fn select(&mut self, id: u32, args: Args<'_>, out: &mut Vec<u8>) -> Result<(), Vec<u8>> {
        let number = integer(args.at(1)).ok_or(NO_INTEGER)?;
        if i32::try_from(number).is_err() {
            return Err(NO_INT.into());
        }
        let db = u32::try_from(number).ok().filter(|db| *db < self.options.databases);
        self.moved_to(id, db.ok_or("ERR DB index is out of range")?);
        Reply::new(out, Proto::Resp2).status("OK");
        Ok(())
    }

    fn reset(&mut self, id: u32, out: &mut Vec<u8>) -> Result<(), Vec<u8>> {
        self.reset_session(id);
        let users = !self.options.users.is_empty();
        let client = &mut self.clients[id as usize];
        client.proto = Proto::Resp2;
        client.db = 0;
        client.mute = false;
        client.about.name = Vec::new();
        client.about.user = String::new();
        if users {
            client.session_mut().authenticated = false;
        }
        Reply::new(out, Proto::Resp2).status("RESET");
        Ok(())
    }

    fn client_reply(&mut self, id: u32, args: Args<'_>) -> Flow {
        let client = &mut self.clients[id as usize];
        if args.is(2, "on") {
            client.mute = false;
            return self.answer(id, |reply| _ = reply.status("OK"));
        }
        if args.is(2, "off") {
            client.mute = true;
        } else if args.is(2, "skip") {
            if !client.mute {
                client.session_mut().skip = true;
            }
        } else {
            return self.answer_error(id, SYNTAX);
        }
        Flow::Taken
    }

    /// A client's lease follows it to another protocol.
    fn lease_speaks(&mut self, id: u32, proto: Proto) {
        let version = if proto == Proto::Resp3 { "3" } else { "2" };
        self.tell_privates_words(id, &["HELLO", version]);
        let conn = self.watching_lease(id);
        if conn != NONE {
            self.conns[conn as usize].proto = proto;
            self.tell_lease(conn, &["HELLO", version]);
        }
    }

    /// The client is in another database from now on, and its own connections follow it.
    pub(super) fn moved_to(&mut self, id: u32, db: u32) {
        self.clients[id as usize].db = db;
        self.tell_privates_words(id, &["SELECT", &db.to_string()]);
        let conn = self.watching_lease(id);
        if conn != NONE {
            self.conns[conn as usize].db = db;
            self.tell_lease(conn, &["SELECT", &db.to_string()]);
        }
    }

    /// The lease that watches keys for the client; a private connection that does so is none.
    fn watching_lease(&self, id: u32) -> u32 {
        let conn = self.watched_conn(id);
        let is_lease = |conn: &super::conn::Conn| matches!(conn.purpose, super::conn::Use::Lease { .. });
        self.conns.get(conn as usize).filter(|conn| is_lease(conn)).map_or(NONE, |_| conn)
    }

    fn tell_lease(&mut self, conn: u32, args: &[&str]) {
        self.expect(conn, super::conn::NOBODY, 0, 0, false);
        self.conns[conn as usize].out.write(|out| crate::resp::request(out, args));
    }
}

/// Compares without telling by its duration where a difference is.
fn same(known: &[u8], given: &[u8]) -> bool {
    known.len() == given.len() && known.iter().zip(given).fold(0, |all, (a, b)| all | (a ^ b)) == 0
}

fn client_name(name: &[u8]) -> Result<Vec<u8>, Vec<u8>> {
    let fits = name.iter().all(|byte| (b'!'..=b'~').contains(byte));
    if fits { Ok(name.to_vec()) } else { Err(BAD_NAME.into()) }
}

fn on_off(word: &[u8]) -> Result<bool, Vec<u8>> {
    match () {
        () if word.eq_ignore_ascii_case(b"on") => Ok(true),
        () if word.eq_ignore_ascii_case(b"off") => Ok(false),
        () => Err(SYNTAX.into()),
    }
}

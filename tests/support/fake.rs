//! A backend that misbehaves on purpose: a real redis-server behind a script that sees every
//! request first and may answer it wrongly. Whatever the script leaves alone the server answers, so
//! a proxy's handshake works as with a real one.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::{Client, Redis, raw_reply, request};

/// What the script does with one request.
pub enum Answer {
    /// The real server answers.
    Pass,
    /// These bytes instead of an answer.
    Bytes(Vec<u8>),
    /// These bytes, then the connection is closed.
    BytesThenClose(Vec<u8>),
    /// The real server's answer, then these bytes too.
    PassThenBytes(Vec<u8>),
    /// Nothing, and the connection stays open.
    Silence,
}

type Script = dyn Fn(&[Vec<u8>]) -> Answer + Send + Sync;

/// The listening fake. Dropping it closes everything.
pub struct Fake {
    address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    script: Box<Script>,
    server: SocketAddr,
    closed: AtomicBool,
    accepted: AtomicU32,
    open: Mutex<HashMap<u32, TcpStream>>,
}

impl Fake {
    /// `script` gets each request's arguments.
    pub fn before(server: &Redis, script: impl Fn(&[Vec<u8>]) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            script: Box::new(script),
            server: server.address(),
            closed: AtomicBool::new(false),
            accepted: AtomicU32::new(0),
            open: Mutex::default(),
        });
        let accepting = Arc::clone(&shared);
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if accepting.closed.load(Ordering::SeqCst) {
                    return;
                }
                let number = accepting.accepted.fetch_add(1, Ordering::SeqCst);
                accepting.open.lock().unwrap().insert(number, stream.try_clone().unwrap());
                let serving = Arc::clone(&accepting);
                std::thread::spawn(move || {
                    serving.serve(stream);
                    if let Some(stream) = serving.open.lock().unwrap().remove(&number) {
                        let _ = stream.shutdown(Shutdown::Both);
                    }
                });
            }
        });
        Self { address, shared }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Connections accepted so far.
    pub fn accepted(&self) -> u32 {
        self.shared.accepted.load(Ordering::SeqCst)
    }

    /// Breaks all connections; new ones are accepted.
    pub fn disconnect(&self) {
        for stream in self.shared.open.lock().unwrap().values() {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

impl Shared {
    /// One connection, request by request, until either side closes.
    fn serve(&self, mut stream: TcpStream) {
        let Ok(mut server) = Client::try_connect(self.server, Duration::from_secs(60)) else { return };
        let mut received = Vec::new();
        let mut chunk = vec![0; 64 << 10];
        loop {
            // A request is an array of bulks, so the reader of replies reads it too.
            while let Ok(Some((frame, used))) = raw_reply(&received) {
                received.drain(..used);
                let args = frame.elements().iter().map(|arg| arg.bytes().to_vec()).collect::<Vec<_>>();
                let mut pass = || {
                    server.try_send_raw(&request(&args)).ok()?;
                    Some(server.try_reply_raw().ok()?.1)
                };
                let (bytes, close) = match (self.script)(&args) {
                    Answer::Pass => (pass(), false),
                    Answer::Bytes(bytes) => (Some(bytes), false),
                    Answer::BytesThenClose(bytes) => (Some(bytes), true),
                    Answer::PassThenBytes(more) => (pass().map(|bytes| [bytes, more].concat()), false),
                    Answer::Silence => continue,
                };
                let sent = bytes.and_then(|bytes| stream.write_all(&bytes).ok());
                if close || sent.is_none() {
                    return;
                }
            }
            match stream.read(&mut chunk) {
                Ok(n) if n > 0 => received.extend_from_slice(&chunk[..n]),
                _ => return,
            }
        }
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.shared.closed.store(true, Ordering::SeqCst);
        self.disconnect();
        // Wakes the accepting thread, which then ends.
        let _ = TcpStream::connect(self.address);
    }
}

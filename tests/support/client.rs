//! A blocking client: one TcpStream, a deadline on every read, nothing hidden.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use super::PATIENCE;
use super::value::{self, Source, Value};

/// One connection to a server or to the proxy.
pub struct Client {
    input: Input,
}

struct Input {
    stream: TcpStream,
    /// Received bytes; those before `at` are used up.
    buffer: Vec<u8>,
    at: usize,
    /// How long one reply may take.
    patience: Duration,
    deadline: Instant,
}

/// The RESP bytes of one request.
pub fn request(args: &[impl AsRef<[u8]>]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", args.len()).into_bytes();
    for arg in args {
        let arg = arg.as_ref();
        bytes.extend_from_slice(format!("${}\r\n", arg.len()).as_bytes());
        bytes.extend_from_slice(arg);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes
}

impl Client {
    pub fn connect(address: SocketAddr) -> Self {
        Self::try_connect(address, PATIENCE).unwrap_or_else(|error| panic!("connect to {address}: {error}"))
    }

    /// `patience` is also how long a reply may take.
    pub fn try_connect(address: SocketAddr, patience: Duration) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&address, patience)?;
        stream.set_nodelay(true)?;
        stream.set_write_timeout(Some(Duration::from_secs(60)))?;
        let deadline = Instant::now() + patience;
        Ok(Self { input: Input { stream, buffer: Vec::new(), at: 0, patience, deadline } })
    }

    /// Another time for each reply than [`PATIENCE`].
    #[must_use]
    pub fn patience(mut self, patience: Duration) -> Self {
        self.input.patience = patience;
        self
    }

    /// `HELLO 3`.
    #[must_use]
    pub fn resp3(mut self) -> Self {
        let hello = self.call(&["HELLO", "3"]);
        assert!(!hello.is_error(), "{hello:?}");
        self
    }

    pub fn stream(&self) -> &TcpStream {
        &self.input.stream
    }

    pub fn local(&self) -> SocketAddr {
        self.input.stream.local_addr().unwrap()
    }

    /// One request and its reply; panics when the connection fails or the time is over.
    pub fn call(&mut self, args: &[impl AsRef<[u8]>]) -> Value {
        self.send(args);
        self.reply()
    }

    pub fn try_call(&mut self, args: &[impl AsRef<[u8]>]) -> io::Result<Value> {
        self.try_send_raw(&request(args))?;
        self.try_reply()
    }

    /// Sends bytes as they are and gives the next reply's bytes.
    pub fn call_raw(&mut self, bytes: &[u8]) -> Vec<u8> {
        self.send_raw(bytes);
        self.reply_raw()
    }

    pub fn send(&mut self, args: &[impl AsRef<[u8]>]) {
        self.send_raw(&request(args));
    }

    pub fn send_raw(&mut self, bytes: &[u8]) {
        self.try_send_raw(bytes).unwrap_or_else(|error| panic!("write: {error}"));
    }

    pub fn try_send_raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.input.stream.write_all(bytes)
    }

    pub fn reply(&mut self) -> Value {
        self.try_reply().unwrap_or_else(|error| panic!("read: {error}"))
    }

    pub fn reply_raw(&mut self) -> Vec<u8> {
        self.try_reply_raw().unwrap_or_else(|error| panic!("read: {error}")).1
    }

    pub fn replies(&mut self, n: usize) -> Vec<Value> {
        (0..n).map(|_| self.reply()).collect()
    }

    pub fn try_reply(&mut self) -> io::Result<Value> {
        self.try_reply_raw().map(|(value, _)| value)
    }

    /// The next reply, understood and as it came. After an error the connection is of no more use.
    pub fn try_reply_raw(&mut self) -> io::Result<(Value, Vec<u8>)> {
        self.input.deadline = Instant::now() + self.input.patience;
        let mut raw = Vec::new();
        let value = value::read(&mut self.input, &mut raw)?;
        Ok((value, raw))
    }

    /// Writes all requests while the replies are read: a server may stop reading one that does not.
    pub fn pipeline(&mut self, requests: &[Vec<Vec<u8>>]) -> Vec<Value> {
        let bytes = requests.iter().flat_map(|args| request(args)).collect::<Vec<_>>();
        self.pipeline_raw(&bytes, requests.len()).into_iter().map(|(value, _)| value).collect()
    }

    /// Writes `bytes` while `n` replies are read.
    pub fn pipeline_raw(&mut self, bytes: &[u8], n: usize) -> Vec<(Value, Vec<u8>)> {
        let mut writer = self.input.stream.try_clone().unwrap();
        std::thread::scope(|scope| {
            scope.spawn(move || writer.write_all(bytes).unwrap_or_else(|error| panic!("write: {error}")));
            (0..n).map(|_| self.try_reply_raw().unwrap_or_else(|error| panic!("read: {error}"))).collect()
        })
    }

    /// Whether nothing has arrived and nothing arrives within `time`.
    pub fn silent_for(&mut self, time: Duration) -> bool {
        self.input.deadline = Instant::now() + time;
        self.input.at == self.input.buffer.len()
            && self.input.fill().is_err_and(|error| error.kind() == io::ErrorKind::TimedOut)
    }

    /// Whether the other side closes the connection without another byte.
    pub fn closed(&mut self) -> bool {
        self.input.deadline = Instant::now() + self.input.patience;
        let gone = [io::ErrorKind::UnexpectedEof, io::ErrorKind::ConnectionReset, io::ErrorKind::BrokenPipe];
        self.input.at == self.input.buffer.len() && self.input.fill().is_err_and(|error| gone.contains(&error.kind()))
    }

    /// Sends FIN; replies can still be read.
    pub fn half_close(&self) {
        self.input.stream.shutdown(Shutdown::Write).unwrap();
    }
}

impl Input {
    /// Receives at least one more byte.
    fn fill(&mut self) -> io::Result<()> {
        self.buffer.drain(..self.at);
        self.at = 0;
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "no reply in time"));
        }
        self.stream.set_read_timeout(Some(left))?;
        let before = self.buffer.len();
        self.buffer.resize(before + (64 << 10), 0);
        let read = self.stream.read(&mut self.buffer[before..]);
        self.buffer.truncate(before + read.as_ref().copied().unwrap_or(0));
        match read {
            Ok(0) => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "connection closed")),
            Ok(_) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                Err(io::Error::new(io::ErrorKind::TimedOut, "no reply in time"))
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(()),
            Err(error) => Err(error),
        }
    }
}

impl Source for Input {
    fn line(&mut self) -> io::Result<Vec<u8>> {
        let mut seen = 0;
        loop {
            let have = &self.buffer[self.at..];
            if let Some(end) = have[seen..].iter().position(|&byte| byte == b'\n') {
                let line = have[..=seen + end].to_vec();
                self.at += line.len();
                return Ok(line);
            }
            seen = have.len();
            self.fill()?;
        }
    }

    fn exactly(&mut self, n: usize) -> io::Result<Vec<u8>> {
        let mut body = Vec::with_capacity(n);
        loop {
            let have = &self.buffer[self.at..];
            let take = have.len().min(n - body.len());
            body.extend_from_slice(&have[..take]);
            self.at += take;
            if body.len() == n {
                return Ok(body);
            }
            self.fill()?;
        }
    }
}

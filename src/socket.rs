//! A stream socket to a client or a server, over TCP or a unix path.

use std::io::{self, IoSlice, Read, Write};
use std::net::SocketAddr;
use std::time::Duration;

use mio::{Interest, Registry, Token};
use socket2::{SockRef, TcpKeepalive};
use tokio::net::lookup_host;
use tokio::task::JoinHandle;

use crate::topology::Endpoint;

/// A peer that vanished without a word is found out after this silence, and three unanswered probes.
const KEEPALIVE: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub enum Socket {
    Tcp(mio::net::TcpStream),
    Unix(mio::net::UnixStream),
}

impl Socket {
    /// Connects to a server; its name is resolved now, or by what is left of an earlier attempt to.
    ///
    /// # Errors
    /// It cannot be resolved or reached.
    pub async fn connect(endpoint: &Endpoint, lookup: &mut Lookup) -> io::Result<Self> {
        match endpoint {
            Endpoint::Tcp { host, port } => {
                let addresses = lookup.addresses(host, *port).await?;
                let stream = tokio::net::TcpStream::connect(addresses.as_slice()).await?;
                tune(&SockRef::from(&stream))?;
                Self::tcp(stream)
            }
            Endpoint::Unix(path) => Self::unix(tokio::net::UnixStream::connect(path).await?),
        }
    }

    /// Takes a socket out of its runtime.
    ///
    /// # Errors
    /// The kernel's, of a socket that is gone.
    pub fn tcp(stream: tokio::net::TcpStream) -> io::Result<Self> {
        Ok(Self::Tcp(mio::net::TcpStream::from_std(stream.into_std()?)))
    }

    /// Takes a socket out of its runtime.
    ///
    /// # Errors
    /// The kernel's, of a socket that is gone.
    pub fn unix(stream: tokio::net::UnixStream) -> io::Result<Self> {
        Ok(Self::Unix(mio::net::UnixStream::from_std(stream.into_std()?)))
    }

    /// Has the kernel tell `registry` of what comes, and of room for what goes.
    ///
    /// # Errors
    /// The kernel's.
    pub fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        let both = Interest::READABLE | Interest::WRITABLE;
        match self {
            Self::Tcp(stream) => registry.register(stream, token, both),
            Self::Unix(stream) => registry.register(stream, token, both),
        }
    }

    /// # Errors
    /// The kernel's; `WouldBlock` when there is nothing for now.
    pub fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.read(buf),
            Self::Unix(stream) => stream.read(buf),
        }
    }

    /// # Errors
    /// The kernel's; `WouldBlock` when there is no room for now.
    pub fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.write(buf),
            Self::Unix(stream) => stream.write(buf),
        }
    }

    /// # Errors
    /// The kernel's; `WouldBlock` when there is no room for now.
    pub fn write_vectored(&mut self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.write_vectored(bufs),
            Self::Unix(stream) => stream.write_vectored(bufs),
        }
    }
}

/// What resolves one server's name. Nothing can stop a look-up while the name servers are silent, and each
/// keeps a thread busy: one that outlasts an attempt to connect is for the next one, which begins no other.
#[derive(Debug, Default)]
pub struct Lookup {
    under_way: Option<JoinHandle<io::Result<Vec<SocketAddr>>>>,
}

impl Lookup {
    async fn addresses(&mut self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        let name = (host.to_owned(), port);
        self.found(async { Ok(lookup_host(name).await?.collect()) }).await
    }

    async fn found(
        &mut self,
        find: impl Future<Output = io::Result<Vec<SocketAddr>>> + Send + 'static,
    ) -> io::Result<Vec<SocketAddr>> {
        let found = self.under_way.get_or_insert_with(|| tokio::spawn(find)).await;
        self.under_way = None;
        found?
    }
}

/// A TCP socket sends at once and notices a dead peer. What a listening one accepts does so, too.
///
/// # Errors
/// The socket is closed already.
pub fn tune(socket: &socket2::Socket) -> io::Result<()> {
    let probes = TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE / 6).with_retries(3);
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_keepalive(&probes)
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot::channel;
    use tokio::time::timeout;

    use super::*;

    #[tokio::test]
    async fn attempts_share_a_look_up_that_outlasts_them() {
        let (answer, silence) = channel::<SocketAddr>();
        let slow = async { silence.await.map(|address| vec![address]).map_err(io::Error::other) };
        let mut lookup = Lookup::default();
        let never = || std::future::ready(Err(io::Error::other("a second one was begun")));
        assert!(timeout(Duration::from_millis(20), lookup.found(slow)).await.is_err());
        assert!(timeout(Duration::from_millis(20), lookup.found(never())).await.is_err());
        let address = SocketAddr::from(([127, 0, 0, 1], 7001));
        answer.send(address).unwrap();
        assert_eq!(lookup.found(never()).await.unwrap(), [address]);
        // The next attempt asks anew.
        assert!(lookup.found(never()).await.is_err());
    }
}

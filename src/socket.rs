//! A stream socket to a client or a server, over TCP or a unix path.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::BufMut;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, Interest, ReadBuf};
use tokio::net::{TcpStream, UnixStream, lookup_host};
use tokio::task::JoinHandle;

use crate::topology::Endpoint;

/// A peer that vanished without a word is found out after this silence, and three unanswered probes.
const KEEPALIVE: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
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
                let stream = TcpStream::connect(addresses.as_slice()).await?;
                tune(&SockRef::from(&stream))?;
                Ok(Self::Tcp(stream))
            }
            Endpoint::Unix(path) => Ok(Self::Unix(UnixStream::connect(path).await?)),
        }
    }

    /// Whether the peer has sent its last byte, which need not have been read.
    #[must_use]
    pub fn is_read_closed(&self) -> bool {
        let mut cx = Context::from_waker(Waker::noop());
        let ready = match self {
            Self::Tcp(stream) => pin!(stream.ready(Interest::READABLE)).poll(&mut cx),
            Self::Unix(stream) => pin!(stream.ready(Interest::READABLE)).poll(&mut cx),
        };
        matches!(ready, Poll::Ready(Ok(ready)) if ready.is_read_closed())
    }

    /// Reads into `buf`; a short read does not cost a second system call.
    pub fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut buf = ReadBuf::new(buf);
        let poll = match self {
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, &mut buf),
            Self::Unix(stream) => Pin::new(stream).poll_read(cx, &mut buf),
        };
        poll.map_ok(|()| buf.filled().len())
    }

    /// Reads into memory that need not be filled before.
    pub fn poll_read_buf(&mut self, cx: &mut Context<'_>, mut buf: impl BufMut) -> Poll<io::Result<usize>> {
        match self {
            Self::Tcp(stream) => pin!(stream.read_buf(&mut buf)).poll(cx),
            Self::Unix(stream) => pin!(stream.read_buf(&mut buf)).poll(cx),
        }
    }

    pub fn poll_write(&mut self, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self {
            Self::Tcp(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Unix(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    pub fn poll_write_vectored(&mut self, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        match self {
            Self::Tcp(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Self::Unix(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
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

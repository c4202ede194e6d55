//! `ringway advise`: asks a running proxy which keys belong together.

use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, bail};
use hyper::Request;
use hyper_util::rt::TokioIo;
use redis_protocol::resp2::decode::decode;
use redis_protocol::resp2::types::OwnedFrame;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::time;

use crate::config::Config;
use crate::resp;
use crate::topology::Endpoint;

/// The proxy answers at once, or is not there.
const PATIENCE: Duration = Duration::from_secs(10);
/// How an address is written.
pub(super) const ADDRESS: &str = "http://HOST:PORT (admin port) or redis://HOST:PORT (where clients connect)";
/// Some thousand rules.
const ANSWER_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Where a running proxy is asked.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// Its admin port.
    Admin(String),
    /// Its clients' port, with the words of AUTH if it asks for them.
    Client(Endpoint, Vec<String>),
}

impl Place {
    /// Where the configuration says that the proxy is.
    pub(super) fn of(config: &Config) -> Result<Self, String> {
        let reachable = |endpoint: &Endpoint| match endpoint {
            Endpoint::Tcp { port: 0, .. } => {
                Err(format!("the kernel chose the port of {endpoint}: give the address instead of the configuration"))
            }
            // Any of the machine's addresses will do.
            Endpoint::Tcp { host, port } if host == "0.0.0.0" => Ok(tcp("127.0.0.1", *port)),
            Endpoint::Tcp { host, port } if host == "::" => Ok(tcp("::1", *port)),
            other => Ok(other.clone()),
        };
        if let Some(admin) = &config.admin.listen {
            return reachable(admin).map(|endpoint| Self::Admin(endpoint.to_string()));
        }
        let listen = config.proxy.listen.first().ok_or("there is no address in proxy.listen")?;
        let words = config.user.first().map_or_else(Vec::new, |user| {
            let password = user.password.as_ref().map_or("", |password| password.reveal());
            vec![user.name.clone(), password.to_owned()]
        });
        Ok(Self::Client(reachable(listen)?, words))
    }
}

impl FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("\"{text}\" is no address: say {ADDRESS}");
        if let Some(rest) = text.strip_prefix("http://") {
            let rest = rest.trim_end_matches('/');
            return endpoint(rest).map(|_| Self::Admin(rest.to_owned())).ok_or_else(wrong);
        }
        let rest = text.strip_prefix("redis://").ok_or_else(wrong)?.trim_end_matches('/');
        let (words, place) = rest.rsplit_once('@').map_or(("", rest), |(words, place)| (words, place));
        let words = words.splitn(2, ':').filter(|word| !word.is_empty()).map(str::to_owned).collect();
        Ok(Self::Client(endpoint(place).ok_or_else(wrong)?, words))
    }
}

fn tcp(host: &str, port: u16) -> Endpoint {
    Endpoint::Tcp { host: host.to_owned(), port }
}

fn endpoint(text: &str) -> Option<Endpoint> {
    let (host, port) = text.rsplit_once(':').filter(|(host, _)| !host.is_empty())?;
    Some(tcp(host.trim_start_matches('[').trim_end_matches(']'), port.parse().ok()?))
}

/// The report, as the proxy says it.
pub(super) fn ask(place: &Place) -> anyhow::Result<String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("the runtime")?;
    runtime.block_on(async {
        let answer = async {
            match place {
                Place::Admin(address) => admin(address).await.with_context(|| format!("http://{address}/advise")),
                Place::Client(endpoint, words) => client(endpoint, words).await.with_context(|| endpoint.to_string()),
            }
        };
        time::timeout(PATIENCE, answer).await.context("the proxy does not answer")?
    })
}

async fn admin(address: &str) -> anyhow::Result<String> {
    let stream = TcpStream::connect(address).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    // It ends with the answer.
    tokio::spawn(connection);
    let request = Request::get("/advise").header("host", address).body(String::new())?;
    let response = sender.send_request(request).await;
    let response = response.context("this is no admin port; where clients connect, ask redis://HOST:PORT")?;
    if !response.status().is_success() {
        bail!("the answer is {}: this is not Ringway's admin port", response.status());
    }
    let body = axum::body::to_bytes(axum::body::Body::new(response.into_body()), ANSWER_BYTES_MAX).await?;
    Ok(String::from_utf8(body.to_vec())?)
}

async fn client(endpoint: &Endpoint, words: &[String]) -> anyhow::Result<String> {
    let mut out = Vec::new();
    if !words.is_empty() {
        let words: Vec<&str> = std::iter::once("AUTH").chain(words.iter().map(String::as_str)).collect();
        resp::request(&mut out, &words);
    }
    resp::request(&mut out, &["RINGWAY", "ADVISE"]);
    match endpoint {
        Endpoint::Tcp { host, port } => talk(TcpStream::connect((host.as_str(), *port)).await?, &out).await,
        Endpoint::Unix(path) => talk(UnixStream::connect(path).await?, &out).await,
    }
}

async fn talk(mut stream: impl AsyncReadExt + AsyncWriteExt + Unpin, out: &[u8]) -> anyhow::Result<String> {
    stream.write_all(out).await?;
    let mut received = Vec::new();
    loop {
        const NOT_RESP: &str = "this is no port for clients; the admin port is asked with http://HOST:PORT";
        while let Some((frame, used)) = decode(&received).context(NOT_RESP)? {
            received.drain(..used);
            match frame {
                // AUTH's.
                OwnedFrame::SimpleString(_) => {}
                OwnedFrame::BulkString(text) => return Ok(String::from_utf8(text)?),
                OwnedFrame::Error(text) => bail!("{text}"),
                _ => bail!("the answer is none of Ringway's"),
            }
        }
        if received.len() > ANSWER_BYTES_MAX || stream.read_buf(&mut received).await? == 0 {
            bail!("the answer does not end: is that Ringway?");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_say_how_to_ask() {
        let client = |host: &str, words: &[&str]| {
            Ok(Place::Client(tcp(host, 7379), words.iter().map(|word| (*word).to_owned()).collect()))
        };
        assert_eq!("http://127.0.0.1:9379/".parse(), Ok(Place::Admin("127.0.0.1:9379".to_owned())));
        assert_eq!("redis://localhost:7379".parse(), client("localhost", &[]));
        assert_eq!("redis://:p@ss@[::1]:7379/".parse(), client("::1", &["p@ss"]));
        assert_eq!("redis://user:pw@h:7379".parse(), client("h", &["user", "pw"]));
        for wrong in ["127.0.0.1:7379", "http://x", "redis://:7379", "redis://h:x", ""] {
            let place: Result<Place, String> = wrong.parse();
            assert!(place.is_err_and(|text| text.contains("http://HOST:PORT")), "{wrong}");
        }
    }
}

//! The port, driven by bytes on a socket.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::*;
use crate::metrics::Labels;

/// A served port with shards `a` and `b`.
struct Admin {
    metrics: Arc<Metrics>,
    state: Arc<AdminState>,
    address: std::net::SocketAddr,
    stop: oneshot::Sender<()>,
    task: JoinHandle<io::Result<()>>,
}

impl Admin {
    async fn start(quorum: usize) -> Self {
        let labels =
            Labels { commands: vec!["get"], backends: vec!["a".to_owned(), "b".to_owned()], ..Labels::default() };
        let metrics = Arc::new(Metrics::new(labels, 2).unwrap());
        let shard = |name: &str, slots| ShardFacts {
            name: name.to_owned(),
            address: format!("<{name}>:6379"),
            weight: 1,
            slots,
            share: 0.5,
        };
        let facts = Facts {
            topology_version: 3,
            quorum,
            shards: vec![shard("a", Some(8192)), shard("b", None)],
            ..Facts::default()
        };
        let state = AdminState::new(Arc::clone(&metrics), facts);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let task = tokio::spawn(serve(listener, Arc::clone(&state), stopped));
        Self { metrics, state, address, stop, task }
    }

    fn up(&self, backend: usize, up: i64) {
        for worker in self.metrics.workers() {
            worker.backends[backend].up.set(up);
        }
    }

    /// Everything that comes back for `request` until the port closes the connection.
    async fn send(&self, request: &str) -> String {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    /// Status code and body of a GET.
    async fn get(&self, path: &str) -> (u16, String) {
        let answer = self.send(&format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n")).await;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head[9..12].parse().unwrap(), body.to_owned())
    }
}

#[tokio::test]
async fn every_page_answers() {
    let admin = Admin::start(1).await;
    admin.metrics.worker(0).requests[0].add(5);
    assert_eq!(admin.get("/healthz").await, (200, "ok\n".to_owned()));
    let (code, page) = admin.get("/metrics").await;
    assert_eq!(code, 200);
    assert!(page.contains("ringway_requests_total{command=\"get\"} 5\n"));
    let (code, page) = admin.get("/").await;
    assert_eq!(code, 200);
    assert!(page.contains("&lt;a&gt;:6379") && !page.contains("<a>:6379"), "{page}");
    for link in ["/status", "/metrics", "/readyz", "/healthz"] {
        assert!(page.contains(&format!("href=\"{link}\"")), "{link}");
    }
    assert!(!page.contains("http://") && !page.contains("https://"));
}

#[tokio::test]
async fn ready_from_the_quorum_on() {
    let admin = Admin::start(1).await;
    let (code, text) = admin.get("/readyz").await;
    assert_eq!(code, 503);
    assert_eq!(text, "not ready: 0 of 2 shards up, 1 needed\ndown: a at <a>:6379\ndown: b at <b>:6379\n");
    admin.up(0, 1);
    admin.metrics.worker(1).backends[1].up.set(1);
    let (code, text) = admin.get("/readyz").await;
    assert_eq!((code, text.as_str()), (200, "ready: 1 of 2 shards up, 1 needed\npartial: b at <b>:6379\n"));
    admin.state.drain();
    assert_eq!(admin.get("/readyz").await.0, 503);
    assert_eq!(admin.get("/healthz").await.0, 200);
}

#[tokio::test]
async fn status_is_json_with_every_shard() {
    let admin = Admin::start(2).await;
    admin.up(0, 1);
    admin.metrics.worker(0).backends[0].requests.add(3);
    admin.metrics.worker(1).backends[0].inflight.add(2);
    admin.metrics.worker(1).clients.inc();
    let (code, body) = admin.get("/status").await;
    assert_eq!(code, 200);
    let status: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!(status["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(status["topology_version"], 3);
    assert_eq!(status["ready"], false);
    assert_eq!(status["clients"]["connected"], 1);
    assert_eq!(status["workers"][1]["clients"], 1);
    let shard = &status["shards"][0];
    assert_eq!((shard["state"].as_str(), shard["requests"].as_u64()), (Some("up"), Some(3)));
    assert_eq!((shard["inflight"].as_i64(), shard["slots"].as_u64()), (Some(2), Some(8192)));
    assert_eq!(status["shards"][1]["state"], "down");
    assert!(status["shards"][1]["slots"].is_null());
}

#[tokio::test]
async fn a_reload_shows_other_shards() {
    let admin = Admin::start(2).await;
    admin.up(1, 1);
    let b = ShardFacts { name: "b".to_owned(), ..ShardFacts::default() };
    let unknown = ShardFacts { name: "c".to_owned(), ..ShardFacts::default() };
    admin.state.swap(Facts { topology_version: 4, quorum: 1, shards: vec![b, unknown], ..Facts::default() });
    let status: serde_json::Value = serde_json::from_str(&admin.get("/status").await.1).unwrap();
    assert_eq!((status["ready"].as_bool(), status["topology_version"].as_u64()), (Some(true), Some(4)));
    assert_eq!(
        (status["shards"][0]["state"].as_str(), status["shards"][1]["state"].as_str()),
        (Some("up"), Some("down"))
    );
}

#[tokio::test]
async fn nothing_else_is_there() {
    let admin = Admin::start(1).await;
    assert_eq!(admin.get("/metrics/").await, (404, "not found; see /\n".to_owned()));
    for path in ["/", "/metrics", "/nowhere"] {
        let answer = admin.send(&format!("POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")).await;
        assert!(answer.starts_with("HTTP/1.1 405 "), "{answer}");
        assert!(answer.contains("\r\nallow: GET, HEAD\r\n") && answer.ends_with("only GET\n"), "{answer}");
    }
    let head = admin.send("HEAD /metrics HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert!(head.starts_with("HTTP/1.1 200 ") && head.ends_with("\r\n\r\n"), "{head}");
}

#[tokio::test]
async fn huge_headers_and_nonsense_are_refused() {
    let admin = Admin::start(1).await;
    let long = format!("GET / HTTP/1.1\r\nx: {}\r\n\r\n", "y".repeat(HEADER_BYTES_MAX));
    assert!(admin.send(&long).await.starts_with("HTTP/1.1 431 "));
    let many = format!("GET / HTTP/1.1\r\n{}\r\n", "x: y\r\n".repeat(HEADERS_MAX + 1));
    assert!(admin.send(&many).await.starts_with("HTTP/1.1 431 "));
    assert!(admin.send("*1\r\n$4\r\nPING\r\n").await.starts_with("HTTP/1.1 400 "));
    // A promised body is not waited for.
    let body = admin.send("GET /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000\r\n\r\n").await;
    assert!(body.starts_with("HTTP/1.1 200 "), "{body}");
}

#[tokio::test]
async fn a_peer_that_says_too_little_is_dropped() {
    let admin = Admin::start(1).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut peer = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (stream, _) = listener.accept().await.unwrap();
    peer.write_all(b"GET /healthz HT").await.unwrap();
    answer(stream, router(Arc::clone(&admin.state)), Duration::from_millis(20)).await;
    let mut rest = Vec::new();
    // The connection ends, by a close or a reset, with nothing said.
    let _ = peer.read_to_end(&mut rest).await;
    assert_eq!(rest, b"");
}

#[tokio::test]
async fn the_port_closes_on_shutdown() {
    let admin = Admin::start(1).await;
    assert_eq!(admin.get("/healthz").await.0, 200);
    admin.stop.send(()).unwrap();
    admin.task.await.unwrap().unwrap();
    assert!(TcpStream::connect(admin.address).await.is_err());
}

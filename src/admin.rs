//! The admin port: a few pages over HTTP, on the control thread, on a port of its own.
//!
//! ```text
//! /metrics  Prometheus        /healthz  does the process run        /  a page for people
//! /status   JSON              /readyz   can it serve
//! /advise   colocate rules
//! ```
//!
//! It reads cells and a snapshot of facts and never talks to a worker, so a scrape cannot slow the
//! data path and a stuck worker cannot hide the page. A connection carries one small request and
//! ends within [`REQUEST_TIME_MAX`]; it needs no peer's good will.

mod page;
mod status;

use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use axum::extract::State;
use axum::http::header::{ALLOW, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time;

use crate::advice::{Report, Tallies};
use crate::metrics::Metrics;
use crate::topology::Topology;

/// What the pages are made of.
#[derive(Debug)]
pub struct AdminState {
    metrics: Arc<Metrics>,
    facts: ArcSwap<Facts>,
    started: Instant,
    draining: AtomicBool,
}

/// What the server knows and the cells do not; replaced whole by a reload.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    pub topology_version: u64,
    /// The proxy is ready while at least so many shards are up.
    pub quorum: usize,
    /// In the order of the configuration.
    pub shards: Vec<ShardFacts>,
    /// What the workers have counted of keys on several shards, and the topology that it is judged by.
    pub advice: Option<(Arc<Tallies>, Arc<Topology>)>,
}

/// One shard as it is configured and placed.
#[derive(Clone, Debug, Default)]
pub struct ShardFacts {
    /// Its backend's name, as in [`crate::metrics::Labels::backends`].
    pub name: String,
    pub address: String,
    pub weight: u32,
    /// Slots owned; none for a placement that knows no slots.
    pub slots: Option<u32>,
    /// Part of the key space, 0 to 1.
    pub share: f64,
}

/// A connection's whole life, from accepted to answered.
pub const REQUEST_TIME_MAX: Duration = Duration::from_secs(10);

/// Connections served at once; more wait in the listener's backlog.
pub const CONNECTIONS_MAX: usize = 128;

const HEADER_TIME_MAX: Duration = Duration::from_secs(5);
const HEADER_BYTES_MAX: usize = 8 * 1024;
const HEADERS_MAX: usize = 64;

/// How long open requests may take to finish once `shutdown` has resolved.
const SHUTDOWN_TIME_MAX: Duration = Duration::from_secs(1);

impl AdminState {
    #[must_use]
    pub fn new(metrics: Arc<Metrics>, facts: Facts) -> Arc<Self> {
        Arc::new(Self {
            metrics,
            facts: ArcSwap::from_pointee(facts),
            started: Instant::now(),
            draining: AtomicBool::new(false),
        })
    }

    /// Shows `facts` from now on.
    pub fn swap(&self, facts: Facts) {
        self.facts.store(Arc::new(facts));
    }

    /// Which keys belong together. Takes a moment to find out.
    fn report(&self) -> Option<Report> {
        let facts = self.facts.load();
        let (tallies, topology) = facts.advice.as_ref()?;
        Some(tallies.report(topology))
    }

    /// The proxy is stopping: not ready any more, whatever the shards do.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }
}

/// Serves the pages on `listener` until `shutdown` resolves.
///
/// # Errors
/// None today: a failed accept is logged and tried again. The type leaves room.
pub async fn serve(listener: TcpListener, state: Arc<AdminState>, shutdown: impl Future) -> io::Result<()> {
    let router = router(state);
    let mut shutdown = pin!(shutdown);
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            _ = &mut shutdown => break,
            Some(_) = connections.join_next() => {}
            accepted = listener.accept(), if connections.len() < CONNECTIONS_MAX => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(answer(stream, router.clone(), HEADER_TIME_MAX));
                }
                Err(error) => {
                    // Out of descriptors, mostly: accepting again at once would fail again.
                    tracing::warn!(%error, "admin accept failed");
                    time::sleep(Duration::from_millis(100)).await;
                }
            },
        }
    }
    drop(listener);
    // The rest is aborted when the set is dropped.
    let _ = time::timeout(SHUTDOWN_TIME_MAX, async { while connections.join_next().await.is_some() {} }).await;
    Ok(())
}

/// One request, one answer, then the connection closes.
async fn answer(stream: TcpStream, router: Router, header_time_max: Duration) {
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .keep_alive(false)
        .header_read_timeout(header_time_max)
        .max_headers(HEADERS_MAX)
        .max_header_size(HEADER_BYTES_MAX)
        .max_buf_size(2 * HEADER_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    // What a peer did wrong is its own business: nobody here acts on it.
    let _ = time::timeout(REQUEST_TIME_MAX, connection).await;
}

fn router(state: Arc<AdminState>) -> Router {
    Router::new()
        .route("/", get(index))
        .route("/metrics", get(metrics))
        .route("/healthz", get(async || text(StatusCode::OK, "ok\n")))
        .route("/readyz", get(readyz))
        .route("/status", get(status))
        .route("/advise", get(advise))
        .fallback(nothing)
        .method_not_allowed_fallback(nothing)
        .with_state(state)
}

async fn index(State(state): State<Arc<AdminState>>) -> Response {
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static("default-src 'none'; style-src 'unsafe-inline'"));
    (headers, page::render(&status::Status::of(&state).advised(&state))).into_response()
}

async fn metrics(State(state): State<Arc<AdminState>>) -> Response {
    match state.metrics.render() {
        Ok(page) => ([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], page).into_response(),
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
    }
}

async fn readyz(State(state): State<Arc<AdminState>>) -> Response {
    let status = status::Status::of(&state);
    let code = if status.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    text(code, status.readiness())
}

async fn status(State(state): State<Arc<AdminState>>) -> Response {
    ([(CACHE_CONTROL, "no-store")], Json(status::Status::of(&state).advised(&state))).into_response()
}

async fn advise(State(state): State<Arc<AdminState>>) -> Response {
    match state.report() {
        Some(report) => text(StatusCode::OK, report.text),
        None => text(StatusCode::NOT_FOUND, "nothing is counted here\n"),
    }
}

/// No such page, or not by this method: nothing here can be changed over HTTP.
async fn nothing(method: Method) -> Response {
    if method == Method::GET || method == Method::HEAD {
        return text(StatusCode::NOT_FOUND, "not found; see /\n");
    }
    let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "only GET\n");
    response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
    response
}

fn text(code: StatusCode, body: impl Into<String>) -> Response {
    (code, [(CONTENT_TYPE, "text/plain; charset=utf-8"), (CACHE_CONTROL, "no-store")], body.into()).into_response()
}

#[cfg(test)]
mod tests;

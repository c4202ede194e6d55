//! The promise: the dashboard and the alerts show what the proxy did.
//!
//! A real Prometheus scrapes `/metrics` every second and is asked every expression of
//! `dashboards/ringway.json` and `dashboards/alerts.yml`. Each must give data (alerts and errors may
//! give none), each metric named must be on the page, and what is counted must equal the load.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test stops where something is missing")]

use std::collections::BTreeSet;
use std::future::Future;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ringway::admin::{self, AdminState, Facts};
use ringway::metrics::{Labels, Metrics};
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, ChildStderr, Command};
use tokio::time::{self, Instant};

/// How long anything may take that a healthy machine does in a second or two.
const PATIENCE: Duration = Duration::from_secs(60);

/// Shown only when the proxy has a limit on clients; the dashboard falls back on descriptors.
const OPTIONAL: &str = "ringway_client_connections_max";

/// What the in-process test adds to each cell of each worker, twice.
const STEP: u64 = 250;

/// Fills in for Grafana's interval; longer than a test takes, so that no growth falls out of it.
const WINDOW: &str = "10m";
const WINDOW_SECONDS: f64 = 600.0;

/// dashboards/alerts_test.yml: each alert fires when it should, and not otherwise.
#[tokio::test]
async fn the_alerts_pass_their_own_tests() {
    for (kind, file) in [("check", "dashboards/alerts.yml"), ("test", "dashboards/alerts_test.yml")] {
        let output = Command::new("promtool").args([kind, "rules"]).arg(repository(file)).output().await;
        let output = output.expect("promtool is installed (apt: prometheus)");
        let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert!(output.status.success(), "{file}\n{text}");
    }
}

#[tokio::test]
async fn every_expression_gives_data() {
    let metrics = Arc::new(full_metrics());
    let state = AdminState::new(Arc::clone(&metrics), Facts::default());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let port = tokio::spawn(admin::serve(listener, state, std::future::pending::<()>()));

    let prometheus = Prometheus::scraping(address).await;
    prometheus.until("sum(ringway_requests_total)", (4 * STEP) as f64).await;
    count_more(&metrics);
    prometheus.until("sum(ringway_requests_total)", (8 * STEP) as f64).await;

    let page = page(address).await;
    assert_eq!(unknown_names(&page), BTreeSet::new());
    prometheus.check_all().await;

    // The panels' own expressions, over a window in which the second half was counted.
    prometheus.check_rate("Requests per second", "ringway_requests_total", 4 * STEP..=4 * STEP).await;
    prometheus.check_rate("Error replies per second", "ringway_replies_error_total", 2 * STEP..=2 * STEP).await;
    assert_eq!(prometheus.panel("Backends down").await, vec![0.0]);
    assert_eq!(prometheus.panel("Slots").await, vec![16384.0, 16384.0]);
    // All took 100 us, which is in the bucket from 64 to 128 us.
    let p99 = prometheus.panel("p99 latency").await[0];
    assert!((64e-6..=128e-6).contains(&p99), "{p99}");
    port.abort();
}

#[tokio::test]
async fn a_known_load_is_what_prometheus_shows() {
    let dir = tempfile::tempdir().unwrap();
    let mut servers = Vec::new();
    for _ in 0..3 {
        servers.push(RedisServer::start().await);
    }
    let proxy = Proxy::over(&servers, dir.path()).await;
    let prometheus = Prometheus::scraping(proxy.admin).await;
    let mut client = Client::connect(proxy.clients).await;

    // One of each command first, so that every series exists before the load. The last command of
    // a round is the one that fails: once its error is scraped, so is everything before it.
    let last = "sum(ringway_replies_error_total)";
    load(&mut client, 1).await;
    prometheus.until(last, 1.0).await;
    let before = page(proxy.admin).await;
    let (sent, received) = (client.sent, client.received);
    let rounds = 100;
    load(&mut client, rounds).await;
    prometheus.until(last, (1 + rounds) as f64).await;
    let after = page(proxy.admin).await;

    let grown = |series: &str| (sum(&after, series) - sum(&before, series)) as u64;
    for (series, expected) in [
        ("ringway_requests_total{command=\"get\"", 3 * rounds),
        ("ringway_requests_total{command=\"set\"", 2 * rounds),
        ("ringway_requests_total{command=\"incr\"", rounds),
        ("ringway_requests_total", 6 * rounds),
        ("ringway_request_duration_seconds_count", 6 * rounds),
        ("ringway_backend_requests_total", 6 * rounds),
        ("ringway_backend_request_duration_seconds_count", 6 * rounds),
        ("ringway_replies_error_total", rounds),
        ("ringway_backend_errors_total", 0),
        ("ringway_backend_reconnects_total", 0),
        ("ringway_client_connections_total", 0),
        ("ringway_client_bytes_total{direction=\"in\"", client.sent - sent),
        ("ringway_client_bytes_total{direction=\"out\"", client.received - received),
    ] {
        assert_eq!(grown(series), expected, "{series}");
    }
    assert_eq!(sum(&after, "ringway_client_connections "), 1.0);
    assert_eq!(sum(&after, "ringway_backend_up"), 3.0);
    assert_eq!(sum(&after, "ringway_backend_inflight"), 0.0);
    assert_eq!(sum(&after, "ringway_slots"), 16384.0);

    let mut unknown = unknown_names(&after);
    unknown.remove(OPTIONAL);
    assert_eq!(unknown, BTreeSet::new());
    prometheus.check_all().await;
    // Scrapes may have seen some of the first round or all of it.
    let with_first = |each: u64| each * rounds..=each * (rounds + 1);
    prometheus.check_rate("Requests per second", "ringway_requests_total", with_first(6)).await;
    prometheus.check_rate("Error replies per second", "ringway_replies_error_total", with_first(1)).await;
    assert_eq!(prometheus.panel("Backends down").await, vec![0.0]);
    assert_eq!(prometheus.panel("Clients").await, vec![1.0]);
    proxy.quiet();
}

/// `rounds` times two SETs, three GETs and an INCR that fails, on keys of every shard.
async fn load(client: &mut Client, rounds: u64) {
    for round in 0..rounds {
        let (text, number) = (format!("text:{round}"), format!("number:{round}"));
        assert_eq!(client.ask(&["SET", &text, "word"]).await, "+OK\r\n");
        assert_eq!(client.ask(&["SET", &number, "1"]).await, "+OK\r\n");
        assert_eq!(client.ask(&["GET", &text]).await, "$4\r\nword\r\n");
        assert_eq!(client.ask(&["GET", &number]).await, "$1\r\n1\r\n");
        assert_eq!(client.ask(&["GET", "nothing"]).await, "$-1\r\n");
        let error = client.ask(&["INCR", &text]).await;
        assert!(error.starts_with("-ERR value is not an integer"), "{error}");
    }
}

/// A proxy's cells as after some minutes of work.
fn full_metrics() -> Metrics {
    let labels = Labels {
        commands: vec!["get", "set"],
        classes: &["read", "session"],
        error_kinds: &["crossslot"],
        cross_kinds: &["split"],
        backends: vec!["a".to_owned(), "b".to_owned()],
    };
    let metrics = Metrics::new(labels, 2).unwrap();
    let control = metrics.control();
    control.clients_max.set(1000);
    control.topology_version.set(1);
    for slots in &control.slots {
        slots.set(8192);
    }
    for backend in metrics.workers().iter().flat_map(|worker| &worker.backends) {
        backend.up.set(1);
    }
    count_more(&metrics);
    metrics
}

fn count_more(metrics: &Metrics) {
    for worker in metrics.workers() {
        for _ in 0..STEP {
            worker.durations[0].observe_us(100);
            worker.backends[0].duration.observe_us(80);
        }
        worker.requests[0].add(STEP);
        worker.requests[1].add(STEP);
        worker.errors[0].add(STEP);
    }
}

/// The page that Prometheus scrapes.
async fn page(admin: SocketAddr) -> String {
    let (code, body) = http_get(admin, "/metrics").await;
    assert_eq!(code, 200, "{body}");
    body
}

/// The sum of all series on `page` whose line starts with `prefix`.
fn sum(page: &str, prefix: &str) -> f64 {
    let ends = |line: &&str| {
        let rest = line.as_bytes().get(prefix.len());
        prefix.contains(['{', ' ']) || matches!(rest, Some(b'{' | b' '))
    };
    let lines = page.lines().filter(|line| line.starts_with(prefix)).filter(ends);
    lines.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).sum()
}

/// Metrics that the dashboard or an alert names and the page does not have.
fn unknown_names(page: &str) -> BTreeSet<String> {
    let on_page = |name: &str| {
        let family = ["_bucket", "_count", "_sum"].iter().find_map(|suffix| name.strip_suffix(suffix));
        [Some(name), family].iter().flatten().any(|name| page.contains(&format!("# TYPE {name} ")))
    };
    let mut names = BTreeSet::new();
    for expression in dashboard_expressions().into_iter().map(|(_, text)| text).chain(alert_expressions()) {
        let words = expression.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        names.extend(words.filter(|word| is_ours(word)).map(str::to_owned));
    }
    assert!(names.len() > 20, "{names:?}");
    names.retain(|name| !on_page(name));
    names
}

fn is_ours(word: &str) -> bool {
    word.starts_with("ringway_") || word.starts_with("process_")
}

fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn dashboard() -> Value {
    serde_json::from_str(&std::fs::read_to_string(repository("dashboards/ringway.json")).unwrap()).unwrap()
}

/// Each expression of the dashboard with the title that it stands under, variables filled in.
fn dashboard_expressions() -> Vec<(String, String)> {
    let dashboard = dashboard();
    let mut found = Vec::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        let title = panel["title"].as_str().unwrap();
        for target in panel["targets"].as_array().into_iter().flatten() {
            found.push((title.to_owned(), filled(target["expr"].as_str().unwrap())));
        }
    }
    assert!(found.len() >= 30);
    found
}

/// What the alerts ask. A rule file's `expr` is one line, or folded over the lines indented below.
fn alert_expressions() -> Vec<String> {
    let text = std::fs::read_to_string(repository("dashboards/alerts.yml")).unwrap();
    let mut lines = text.lines().peekable();
    let mut found = Vec::new();
    while let Some(line) = lines.next() {
        let Some(first) = line.strip_prefix("        expr: ") else {
            continue;
        };
        let mut expression = first.trim_start_matches(">-").to_owned();
        while let Some(more) = lines.next_if(|line| line.starts_with("          ")) {
            expression.push_str(more.trim_start());
            expression.push(' ');
        }
        found.push(expression);
    }
    assert_eq!(found.len(), text.matches("- alert: ").count());
    found
}

fn filled(expression: &str) -> String {
    let text = expression.replace("$__rate_interval", WINDOW);
    let text = ["$job", "$instance", "$backend"].iter().fold(text, |text, name| text.replace(name, ".*"));
    assert!(!text.contains('$'), "unknown variable in {text}");
    text
}

/// Asks `question` until it gives an answer.
async fn poll<T, F: Future<Output = Option<T>>>(what: &str, mut question: impl FnMut() -> F) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = question().await {
            return answer;
        }
        assert!(Instant::now() < deadline, "gave up waiting for {what}");
        time::sleep(Duration::from_millis(50)).await;
    }
}

/// Status code and body of a GET; code 0 when nobody answers.
async fn http_get(address: SocketAddr, path: &str) -> (u16, String) {
    let Ok(mut stream) = TcpStream::connect(address).await else {
        return (0, String::new());
    };
    let request = format!("GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n");
    let mut answer = String::new();
    if stream.write_all(request.as_bytes()).await.is_err() || stream.read_to_string(&mut answer).await.is_err() {
        return (0, String::new());
    }
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_default();
    let code = head.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
    (code, body.to_owned())
}

/// A port that was free a moment ago, for servers that do not tell which one they took.
async fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port()
}

/// A Prometheus of the test's own.
struct Prometheus {
    address: SocketAddr,
    _process: Child,
    _dir: TempDir,
}

impl Prometheus {
    async fn scraping(target: SocketAddr) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let config = format!(
            "global: {{ scrape_interval: 1s, evaluation_interval: 1s }}\nrule_files: [{:?}]\n\
             scrape_configs: [{{ job_name: ringway, static_configs: [{{ targets: ['{target}'] }}] }}]\n",
            repository("dashboards/alerts.yml"),
        );
        std::fs::write(dir.path().join("prometheus.yml"), config).unwrap();
        let address = SocketAddr::from(([127, 0, 0, 1], free_port().await));
        let process = Command::new("prometheus")
            .arg(format!("--config.file={}", dir.path().join("prometheus.yml").display()))
            .arg(format!("--storage.tsdb.path={}", dir.path().join("data").display()))
            .arg(format!("--web.listen-address={address}"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("prometheus is installed (apt: prometheus)");
        let prometheus = Self { address, _process: process, _dir: dir };
        poll("the first scrape", || async { (prometheus.values("up").await.ok()? == [1.0]).then_some(()) }).await;
        prometheus
    }

    /// The series that `expression` gives.
    async fn query(&self, expression: &str) -> Result<Vec<Value>, String> {
        let escaped: String = expression.bytes().map(|byte| format!("%{byte:02x}")).collect();
        let (_, body) = http_get(self.address, &format!("/api/v1/query?query={escaped}")).await;
        let answer: Value = serde_json::from_str(&body).map_err(|error| format!("{error}: {body}"))?;
        match (answer["status"].as_str(), answer["data"]["result"].as_array()) {
            (Some("success"), Some(series)) => Ok(series.clone()),
            _ => Err(body),
        }
    }

    async fn values(&self, expression: &str) -> Result<Vec<f64>, String> {
        let series = self.query(expression).await?;
        Ok(series.iter().map(|series| series["value"][1].as_str().unwrap().parse().unwrap()).collect())
    }

    /// The values of the first expression of the panel called `title`, and those of its others.
    async fn panel(&self, title: &str) -> Vec<f64> {
        let mut values = Vec::new();
        for (_, expression) in dashboard_expressions().into_iter().filter(|(name, _)| name == title) {
            values.push(self.values(&expression).await.unwrap().iter().sum());
        }
        assert!(!values.is_empty(), "no panel {title}");
        values
    }

    async fn until(&self, expression: &str, expected: f64) {
        poll(&format!("{expression} to be {expected}"), || async {
            (self.values(expression).await.ok()? == [expected]).then_some(())
        })
        .await;
    }

    /// Each expression is understood and gives data, where it may not be empty; each rule runs.
    async fn check_all(&self) {
        for (title, expression) in dashboard_expressions() {
            let series = self.query(&expression).await.unwrap_or_else(|error| panic!("{title}: {error}"));
            assert!(!series.is_empty() || title.contains("Error"), "{title}: nothing for {expression}");
        }
        for variable in dashboard()["templating"]["list"].as_array().unwrap() {
            let Some(query) = variable["definition"].as_str() else {
                continue;
            };
            let inner = query.strip_prefix("label_values(").unwrap().strip_suffix(')').unwrap();
            let (selector, label) = inner.rsplit_once(", ").unwrap();
            let series = self.query(&filled(selector)).await.unwrap();
            assert!(!series.is_empty() && series.iter().all(|series| series["metric"][label].is_string()), "{query}");
        }
        for annotation in dashboard()["annotations"]["list"].as_array().unwrap() {
            self.query(&filled(annotation["expr"].as_str().unwrap())).await.unwrap();
        }
        for expression in alert_expressions() {
            self.query(&expression).await.unwrap_or_else(|error| panic!("{expression}: {error}"));
        }
        let rules = poll("every rule to have run", || async {
            let (_, body) = http_get(self.address, "/api/v1/rules").await;
            let answer: Value = serde_json::from_str(&body).ok()?;
            let groups = answer["data"]["groups"].as_array()?;
            let rules: Vec<Value> =
                groups.iter().flat_map(|group| group["rules"].as_array().unwrap()).cloned().collect();
            rules.iter().all(|rule| rule["health"] != "unknown").then_some(rules)
        })
        .await;
        assert_eq!(rules.len(), alert_expressions().len());
        for rule in rules {
            assert_eq!(rule["health"], "ok", "{rule}");
            assert_ne!(rule["state"], "firing", "nothing is wrong: {rule}");
        }
    }

    /// The panel's rate over the window is the growth of `counter` in it, which lies in `grown`.
    async fn check_rate(&self, title: &str, counter: &str, grown: RangeInclusive<u64>) {
        let increase = self.panel(title).await[0] * WINDOW_SECONDS;
        let samples = format!("min(count_over_time({counter}[{WINDOW}]))");
        let samples = self.values(&samples).await.unwrap()[0];
        // A rate extrapolates to the edges of its range, by up to 1.1 intervals at each.
        let most = *grown.end() as f64 * (1.0 + 2.2 / (samples - 1.0));
        let fits = increase >= *grown.start() as f64 * 0.999 && increase <= most * 1.001;
        assert!(fits, "{title}: {increase} for {grown:?}, at most {most}");
    }
}

/// A plain Redis server with nothing on disk.
struct RedisServer {
    port: u16,
    _process: Child,
    _dir: TempDir,
}

impl RedisServer {
    async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let port = free_port().await;
        let process = Command::new("redis-server")
            .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"])
            .current_dir(dir.path())
            .stdout(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("redis-server is installed");
        poll("redis-server", || async { TcpStream::connect(("127.0.0.1", port)).await.ok() }).await;
        Self { port, _process: process, _dir: dir }
    }
}

/// The proxy's own binary.
struct Proxy {
    clients: SocketAddr,
    admin: SocketAddr,
    /// What it wrote on standard error.
    log: Arc<Mutex<Vec<String>>>,
    _process: Child,
}

impl Proxy {
    async fn over(servers: &[RedisServer], dir: &Path) -> Self {
        let mut config = String::from("[proxy]\nlisten = [\"127.0.0.1:0\"]\n\n[admin]\nlisten = \"127.0.0.1:0\"\n");
        for (index, server) in servers.iter().enumerate() {
            let (name, port) = (["a", "b", "c"][index], server.port);
            config.push_str(&format!("\n[[backend]]\nname = \"{name}\"\naddress = \"127.0.0.1:{port}\"\n"));
        }
        let path = dir.join("ringway.toml");
        std::fs::write(&path, config).unwrap();
        let mut process = Command::new(env!("CARGO_BIN_EXE_ringway"))
            .args(["run", "-c"])
            .arg(&path)
            .env("NO_COLOR", "1")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let log = Arc::new(Mutex::new(Vec::new()));
        tokio::spawn(keep(process.stderr.take().unwrap(), Arc::clone(&log)));
        let admin = poll("the admin port", || async { address(&log, |line| line.contains("admin listening")) }).await;
        let listening = |line: &str| line.contains("listening") && !line.contains("admin listening");
        let clients = poll("the proxy's port", || async { address(&log, listening) }).await;
        poll("all shards to be up", || async {
            (http_get(admin, "/metrics").await.1.matches("\nringway_backend_up{").count() == servers.len())
                .then_some(())?;
            (sum(&page(admin).await, "ringway_backend_up") == servers.len() as f64).then_some(())
        })
        .await;
        Self { clients, admin, log, _process: process }
    }

    /// It had nothing to complain about.
    fn quiet(&self) {
        let log = self.log.lock().unwrap();
        let loud: Vec<_> = log.iter().filter(|line| line.contains(" WARN ") || line.contains(" ERROR ")).collect();
        assert!(loud.is_empty(), "{loud:#?}");
    }
}

/// Keeps every line, until the process ends.
async fn keep(stderr: ChildStderr, log: Arc<Mutex<Vec<String>>>) {
    let mut lines = BufReader::new(stderr).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        log.lock().unwrap().push(line);
    }
}

/// The `address` field of the first line that `is_it`.
fn address(log: &Mutex<Vec<String>>, is_it: impl Fn(&str) -> bool) -> Option<SocketAddr> {
    let log = log.lock().unwrap();
    let line = log.iter().find(|line| is_it(line))?;
    let value = line.split("address=").nth(1)?.split_whitespace().next()?;
    value.trim_matches('"').parse().ok()
}

/// A client that counts its bytes.
struct Client {
    stream: BufReader<TcpStream>,
    sent: u64,
    received: u64,
}

impl Client {
    async fn connect(address: SocketAddr) -> Self {
        let stream = BufReader::new(TcpStream::connect(address).await.unwrap());
        Self { stream, sent: 0, received: 0 }
    }

    /// The reply to one request, as it came: a line, or a bulk string.
    async fn ask(&mut self, words: &[&str]) -> String {
        let mut request = format!("*{}\r\n", words.len());
        for word in words {
            request.push_str(&format!("${}\r\n{word}\r\n", word.len()));
        }
        self.stream.get_mut().write_all(request.as_bytes()).await.unwrap();
        self.sent += request.len() as u64;
        let mut reply = String::new();
        self.stream.read_line(&mut reply).await.unwrap();
        if let Some(Ok(length)) = reply.strip_prefix('$').map(|length| length.trim_end().parse::<usize>()) {
            let mut body = vec![0; length + 2];
            self.stream.read_exact(&mut body).await.unwrap();
            reply.push_str(std::str::from_utf8(&body).unwrap());
        }
        self.received += reply.len() as u64;
        reply
    }
}

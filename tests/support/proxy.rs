//! The proxy under test, as a process of its own: the binary, a configuration file, its log.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::ops::Deref;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use super::{Client, PATIENCE, Process, Redis, poll, scratch};

/// A running proxy. Dropping it kills it, and fails the test when its log holds a WARN, an ERROR
/// or a panic that was not expected.
pub struct Proxy {
    process: Process,
    directory: PathBuf,
    address: SocketAddr,
    log: Log,
    expected: Vec<String>,
    /// With `RINGWAY_TEST_STAND_IN=plain` one plain Redis in the proxy's place: what a test then
    /// reports is the test's own mistake.
    stand_in: Option<Redis>,
}

/// What a proxy is started with. `Proxy::over(&shards).threads(2).start()`.
#[must_use]
pub struct ProxyOptions {
    backends: Vec<(String, String)>,
    listen: Vec<String>,
    threads: usize,
    timeouts: Vec<(String, String)>,
    extra: String,
    expected: Vec<String>,
    /// Files that the process may open.
    files: Option<u32>,
}

/// A proxy shared by the tests of a file; each test checks the log when it ends.
pub struct Guard(&'static Proxy);

/// The lines of standard error so far, without colours.
type Log = Arc<Mutex<Vec<String>>>;

impl Proxy {
    /// The shards are named `a`, `b`, `c`, ... in their order.
    pub fn over<'a>(shards: impl IntoIterator<Item = &'a Redis>) -> ProxyOptions {
        Self::over_addresses(shards.into_iter().map(Redis::address))
    }

    /// Over anything that listens, as a fake backend.
    pub fn over_addresses(addresses: impl IntoIterator<Item = SocketAddr>) -> ProxyOptions {
        let named = |(at, address): (usize, SocketAddr)| (Self::shard_name(at), address.to_string());
        ProxyOptions {
            backends: addresses.into_iter().enumerate().map(named).collect(),
            listen: vec!["127.0.0.1:0".to_owned()],
            threads: 1,
            timeouts: Vec::new(),
            extra: String::new(),
            expected: Vec::new(),
            files: None,
        }
    }

    /// The configured name of shard `at`.
    pub fn shard_name(at: usize) -> String {
        char::from(b'a' + u8::try_from(at).unwrap()).to_string()
    }

    /// One proxy over `n` fresh servers for all tests of a file.
    pub fn shared(cell: &'static OnceLock<(Vec<Redis>, Proxy)>, n: usize) -> Guard {
        let (_, proxy) = cell.get_or_init(|| {
            let shards = super::shards(n);
            let proxy = Self::over(&shards).start();
            (shards, proxy)
        });
        Guard(proxy)
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn client(&self) -> Client {
        Client::connect(self.address)
    }

    /// For each shard `n` keys that live on it, by the proxy's own word.
    pub fn keys_by_shard(&self, shards: usize, n: usize) -> Vec<Vec<String>> {
        let mut client = self.client();
        let mut keys = vec![Vec::new(); shards];
        for at in 0.. {
            if keys.iter().all(|keys| keys.len() >= n) {
                break;
            }
            let key = format!("key:{at}");
            let shard = place(&mut client, &key);
            if keys[shard].len() < n {
                keys[shard].push(key);
            }
        }
        keys
    }

    /// The number of the shard on which a key lives.
    pub fn place(&self, key: &str) -> usize {
        place(&mut self.client(), key)
    }

    /// The sum of a metric's samples on the admin port.
    pub fn metric(&self, name: &str) -> f64 {
        self.metric_of(name, "")
    }

    /// The same for the samples with this label: `kind="refused"`.
    pub fn metric_of(&self, name: &str, label: &str) -> f64 {
        let page = self.page("/metrics");
        let samples = page.lines().filter(|line| line.split(['{', ' ']).next() == Some(name) && line.contains(label));
        let values = samples.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).collect::<Vec<_>>();
        assert!(!values.is_empty(), "no {name} in\n{page}");
        values.iter().sum()
    }

    /// What the admin port answers to a GET, with its head.
    pub fn page(&self, path: &str) -> String {
        let mut stream = std::net::TcpStream::connect(self.admin()).unwrap();
        let mut page = String::new();
        stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").as_bytes()).unwrap();
        stream.read_to_string(&mut page).unwrap();
        page
    }

    /// The admin port's address; waits for its line in the log.
    pub fn admin(&self) -> SocketAddr {
        let found = poll(PATIENCE, || self.log().iter().find_map(|line| listening(line, true)));
        found.unwrap_or_else(|| panic!("no admin address in the log:\n{}", self.log().join("\n")))
    }

    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// SIGHUP, SIGTERM and the like, by name.
    pub fn signal(&self, name: &str) {
        self.process.signal(name);
    }

    /// Waits until it ends by itself.
    pub fn wait(&mut self, patience: Duration) -> Option<ExitStatus> {
        self.process.wait(patience)
    }

    /// The configuration file; rewrite it before a reload.
    pub fn config(&self) -> PathBuf {
        self.directory.join("ringway.toml")
    }

    pub fn is_stand_in(&self) -> bool {
        self.stand_in.is_some()
    }

    pub fn log(&self) -> Vec<String> {
        self.log.lock().unwrap().clone()
    }

    /// Waits until a line of the log holds `text`.
    pub fn until_logged(&self, text: &str) {
        let seen = poll(PATIENCE, || self.log().iter().any(|line| line.contains(text)).then_some(()));
        assert!(seen.is_some(), "never logged: {text}\n{}", self.log().join("\n"));
    }

    /// From now on lines with `text` in them may be warnings.
    pub fn expect_log(&mut self, text: &str) {
        self.expected.push(text.to_owned());
    }

    /// Panics on a warning, an error or a panic in the log that was not expected.
    pub fn check_log(&self) {
        let log = self.log();
        let expected = |line: &str| self.expected.iter().any(|text| line.contains(text));
        let found = log.iter().find(|line| is_trouble(line) && !expected(line));
        assert!(found.is_none(), "unexpected line in the log: {}\n\n{}", found.unwrap(), log.join("\n"));
    }
}

impl ProxyOptions {
    /// Workers; 1 unless told otherwise.
    pub fn threads(mut self, threads: usize) -> Self {
        self.threads = threads;
        self
    }

    /// Other places to listen at; one of them on TCP.
    pub fn listen(mut self, addresses: &[&str]) -> Self {
        self.listen = addresses.iter().map(|&address| address.to_owned()).collect();
        self
    }

    /// A line of `[timeouts]`: `.timeout("request", "500ms")`.
    pub fn timeout(mut self, name: &str, time: &str) -> Self {
        self.timeouts.push((name.to_owned(), time.to_owned()));
        self
    }

    /// How many files the process may open.
    pub fn files(mut self, files: u32) -> Self {
        self.files = Some(files);
        self
    }

    /// More TOML, appended as it is.
    pub fn extra(mut self, toml: &str) -> Self {
        self.extra.push_str(toml);
        self.extra.push('\n');
        self
    }

    /// Warnings and errors that hold `text` are expected.
    pub fn expect_log(mut self, text: &str) -> Self {
        self.expected.push(text.to_owned());
        self
    }

    /// The configuration file's text.
    fn toml(&self) -> String {
        let mut toml = format!("[proxy]\nlisten = {:?}\nthreads = {}\n\n", self.listen, self.threads);
        toml.push_str("[admin]\nlisten = \"127.0.0.1:0\"\n\n");
        for (name, address) in &self.backends {
            let _ = writeln!(toml, "[[backend]]\nname = \"{name}\"\naddress = \"{address}\"\n");
        }
        if !self.timeouts.is_empty() {
            toml.push_str("[timeouts]\n");
            for (name, time) in &self.timeouts {
                let _ = writeln!(toml, "{name} = \"{time}\"");
            }
        }
        toml + "\n" + &self.extra
    }

    /// Starts the proxy and waits until it listens. The one place that knows how.
    pub fn start(self) -> Proxy {
        let directory = scratch("proxy");
        let config = directory.join("ringway.toml");
        std::fs::write(&config, self.toml()).unwrap();
        let log = Log::default();
        if std::env::var("RINGWAY_TEST_STAND_IN").is_ok_and(|kind| kind == "plain") {
            let redis = Redis::start();
            let address = redis.address();
            let process = Process::start("true", |_| ());
            return Proxy { process, directory, address, log, expected: self.expected, stand_in: Some(redis) };
        }
        let ulimit = self.files.map_or(String::new(), |files| format!("ulimit -n {files}; "));
        let mut process = Process::start("sh", |command| {
            command.args(["-c", &(ulimit + "exec \"$0\" \"$@\""), env!("CARGO_BIN_EXE_ringway")]);
            command.arg("run").arg("-c").arg(&config);
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        });
        let stderr = process.child().stderr.take().unwrap();
        let lines = Arc::clone(&log);
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                lines.lock().unwrap().push(without_colours(&line));
            }
        });
        let address = poll(PATIENCE, || {
            let found = log.lock().unwrap().iter().find_map(|line| listening(line, false));
            found.or_else(|| process.ended().map(|_| (std::net::Ipv4Addr::UNSPECIFIED, 0).into()))
        });
        let address = address.filter(|address| address.port() != 0).unwrap_or_else(|| {
            panic!("the proxy does not listen:\n{}\n\n{}", log.lock().unwrap().join("\n"), self.toml())
        });
        Proxy { process, directory, address, log, expected: self.expected, stand_in: None }
    }
}

impl Deref for Guard {
    type Target = Proxy;

    fn deref(&self) -> &Proxy {
        self.0
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.0.check_log();
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.process.kill();
        let _ = std::fs::remove_dir_all(&self.directory);
        if !std::thread::panicking() {
            self.check_log();
        } else {
            println!("the proxy's log:\n{}", self.log().join("\n"));
        }
    }
}

/// The address in a `listening` line of the proxy itself or of its admin port.
fn listening(line: &str, admin: bool) -> Option<SocketAddr> {
    let line = line.replace('"', "");
    if !line.contains("listening") || line.contains("admin") != admin {
        return None;
    }
    let (_, rest) = line.split_once("address=").or_else(|| line.split_once("address:"))?;
    rest.split([' ', ',', '}']).next()?.parse().ok()
}

fn is_trouble(line: &str) -> bool {
    let level = line.split_whitespace().take(3).any(|word| word == "WARN" || word == "ERROR");
    let json = line.contains("\"level\":\"WARN\"") || line.contains("\"level\":\"ERROR\"");
    level || json || line.contains("panicked at")
}

fn without_colours(line: &str) -> String {
    let mut plain = String::new();
    let mut rest = line;
    while let Some((before, after)) = rest.split_once("\x1b[") {
        plain.push_str(before);
        rest = after.split_once('m').map_or("", |(_, after)| after);
    }
    plain + rest
}

fn place(client: &mut Client, key: &str) -> usize {
    let said = client.call(&["RINGWAY", "LOCATE", key]);
    let name = said.elements()[0].field("shard").unwrap_or_else(|| panic!("{said:?}")).text();
    (0..).find(|at| Proxy::shard_name(*at) == name).unwrap()
}

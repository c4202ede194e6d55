//! The process: workers on threads of their own, one control thread that accepts clients, answers
//! the admin port, and listens to signals.
//!
//! Accepting is here and not in the workers so that each new client goes to the worker with the
//! fewest; a client lives on one worker for life.

use std::mem;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail};
use arc_swap::ArcSwap;
use socket2::{Domain, Protocol, Socket as RawSocket, Type};
use tokio::net::{TcpListener, UnixListener};
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, oneshot, watch};
use tracing::{error, info, warn};

use crate::admin::{self, AdminState, ShardFacts};
use crate::advice::{Preset, Tallies};
use crate::command;
use crate::config::{Config, CrossShard, CrossShardTransactions, Keyless, ReadyQuorum, ShardErrors};
use crate::engine::{self, About, Credentials, Options, User};
use crate::metrics::{Metrics, Refusal, WorkerMetrics};
use crate::resp::Limits;
use crate::socket::{Socket, tune};
use crate::topology::{Endpoint, ShardId, Topology};
use crate::worker::{self, Arrival, Bell, Patience, Peer, Setup};

/// Accepted clients that wait for their worker to take them in.
const ARRIVALS_MAX: usize = 1024;
/// Messages of other workers that wait for one to take them in.
const MESSAGES_MAX: usize = 4096;
/// Open files that are not clients': listeners, the admin port and who asks it, runtimes.
const FILES_KEPT: u64 = 32;
/// The same for each backend and worker: connections of both protocols, subscriptions, spares and some leases.
const FILES_PER_LINE: u64 = 8;

/// Runs the proxy until it is told to stop.
///
/// # Errors
/// It cannot listen, or a thread cannot be started.
pub fn run(config: &Config) -> anyhow::Result<()> {
    let topology = Arc::new(Topology::build(&config.topology_spec(), 1).context("the topology")?);
    let threads = match config.proxy.threads {
        0 => thread::available_parallelism().map_or(1, |cores| cores.get()),
        threads => threads as usize,
    };
    let metrics = Arc::new(Metrics::new(engine::labels(&topology), threads).context("the metrics")?);
    let control = Builder::new_current_thread().enable_all().build().context("the control runtime")?;
    drive(control, serve(config, threads, topology, metrics))
}

/// Runs `future` on this thread, to its end and no longer: a name that the system still looks up keeps a
/// thread of its own busy for as long as the name servers are silent, and nobody waits for that.
fn drive<T>(runtime: Runtime, future: impl Future<Output = T>) -> T {
    let output = runtime.block_on(future);
    runtime.shutdown_background();
    output
}

async fn serve(config: &Config, threads: usize, topology: Arc<Topology>, metrics: Arc<Metrics>) -> anyhow::Result<()> {
    let mut signals = Signals::listen().context("the signals")?;
    let clients_max = clients_that_fit(config.limits.clients_max, threads * topology.shards().len());
    let mut listeners = Vec::new();
    for endpoint in &config.proxy.listen {
        listeners.push(Listener::bind(endpoint, config).with_context(|| format!("cannot listen on {endpoint}"))?);
    }
    let port = listeners.first().map_or(0, Listener::port);
    let tallies = tallies(threads);
    let mut options = options(config, &topology, metrics.workers(), port);
    options.tallies = Arc::clone(&tallies);
    options.facts.clients_max = clients_max as usize;
    metrics.control().clients_max.set(i64::from(clients_max));
    let (stop, stopped) = watch::channel(false);
    let snapshot = Arc::new(ArcSwap::new(Arc::clone(&topology)));
    let mut workers = Vec::new();
    let mut queues = Vec::new();
    let (mut peers, mut beds) = (Vec::new(), Vec::new());
    for _ in 0..threads {
        let poll = mio::Poll::new().context("a worker's poll")?;
        let bell = Arc::new(Bell::new(&poll).context("a worker's bell")?);
        let (sender, mail) = mpsc::channel(MESSAGES_MAX);
        peers.push(Peer { mail: sender, bell });
        beds.push((poll, mail));
    }
    for (index, (poll, mail)) in beds.into_iter().enumerate() {
        let (queue, arrivals) = mpsc::channel(ARRIVALS_MAX);
        let bell = Arc::clone(&peers[index].bell);
        let setup = Setup {
            options: Options { worker: index as u16, ..options.clone() },
            topology: Arc::clone(&snapshot),
            metrics: metrics.worker(index),
            patience: Patience {
                connect: config.timeouts.connect,
                pause_min: config.timeouts.reconnect_min,
                pause_max: config.timeouts.reconnect_max,
            },
            drain_timeout: config.timeouts.shutdown,
            poll,
            bell: Arc::clone(&bell),
            arrivals,
            mail,
            peers: peers.clone(),
            control: Handle::current(),
            stop: stopped.clone(),
        };
        let name = format!("worker-{index}");
        workers.push(thread::Builder::new().name(name).spawn(move || worker::run(setup)).context("a worker thread")?);
        queues.push(Queue { arrivals: queue, bell });
    }
    let facts = admin::Facts { advice: Some((tallies, Arc::clone(&topology))), ..facts(config, &topology, &metrics) };
    // Ends once the workers have.
    let (ended, is_ended) = watch::channel(false);
    let mut pages = None;
    if let Some(endpoint) = &config.admin.listen {
        let state = AdminState::new(Arc::clone(&metrics), facts);
        let Endpoint::Tcp { host, port } = endpoint else { bail!("admin.listen must be host:port, is {endpoint}") };
        let listener = TcpListener::bind((host.as_str(), *port)).await;
        let listener = listener.with_context(|| format!("cannot listen on {endpoint} (admin)"))?;
        info!(address = %listener.local_addr()?, "admin listening");
        let (mut stop, mut ended, draining) = (stopped.clone(), is_ended, Arc::clone(&state));
        let over = async move {
            _ = stop.wait_for(|stop| *stop).await;
            // The pages say so while clients get what they asked for.
            draining.drain();
            _ = ended.wait_for(|ended| *ended).await;
        };
        pages = Some(tokio::spawn(async move {
            if let Err(error) = admin::serve(listener, state, over).await {
                error!(%error, "the admin port failed");
            }
        }));
    }
    let acceptor = Arc::new(Acceptor {
        queues,
        metrics: Arc::clone(&metrics),
        next_id: AtomicU64::new(1),
        clients_max: i64::from(clients_max),
    });
    for listener in listeners {
        info!(address = %listener.address(), threads, "listening");
        tokio::spawn(accept(listener, Arc::clone(&acceptor), stopped.clone()));
    }
    drop(acceptor);
    signals.until_told().await;
    stop.send_replace(true);
    peers.iter().for_each(|peer| peer.bell.ring());
    // On a thread of its own: those of the runtime may all be looking names up.
    let (tell, told) = oneshot::channel();
    thread::spawn(move || tell.send(workers.into_iter().all(|worker| worker.join().is_ok())));
    let joined = told.await?;
    ended.send_replace(true);
    if let Some(pages) = pages {
        pages.await?;
    }
    if !joined {
        bail!("a worker panicked");
    }
    Ok(())
}

/// What the process is told from outside.
struct Signals {
    term: Signal,
    int: Signal,
    hup: Signal,
}

impl Signals {
    /// From now on none of them ends the process by itself.
    fn listen() -> std::io::Result<Self> {
        Ok(Self {
            term: signal(SignalKind::terminate())?,
            int: signal(SignalKind::interrupt())?,
            hup: signal(SignalKind::hangup())?,
        })
    }

    /// Ends with the signal that is to end the process.
    async fn until_told(&mut self) {
        let name = loop {
            tokio::select! {
                _ = self.term.recv() => break "SIGTERM",
                _ = self.int.recv() => break "SIGINT",
                _ = self.hup.recv() => warn!("SIGHUP changes nothing: the configuration is read at the start"),
            }
        };
        info!("stopping on {name}");
    }
}

/// How many of the clients that are wanted the process has descriptors for. It takes as many as the system
/// lets it; some are kept for servers, listeners and the admin port.
fn clients_that_fit(wanted: u32, lines: usize) -> u32 {
    let files = rlimit::increase_nofile_limit(u64::MAX).unwrap_or(u64::MAX);
    let room = files.saturating_sub(FILES_KEPT + FILES_PER_LINE * lines as u64).max(1);
    let fit = wanted.min(u32::try_from(room).unwrap_or(u32::MAX));
    if fit < wanted {
        warn!(files, "only {fit} clients are taken at a time, not limits.clients_max = {wanted}: raise `ulimit -n`");
    }
    fit
}

/// Hands each new client to a worker.
struct Acceptor {
    queues: Vec<Queue>,
    metrics: Arc<Metrics>,
    next_id: AtomicU64,
    clients_max: i64,
}

/// The way to one worker.
struct Queue {
    arrivals: mpsc::Sender<Arrival>,
    bell: Arc<Bell>,
}

impl Queue {
    /// Clients that the worker has not taken in yet.
    fn waiting(&self) -> i64 {
        (self.arrivals.max_capacity() - self.arrivals.capacity()) as i64
    }
}

enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener, Endpoint),
}

impl Listener {
    fn bind(endpoint: &Endpoint, config: &Config) -> anyhow::Result<Self> {
        match endpoint {
            Endpoint::Tcp { host, port } => {
                let address = std::net::ToSocketAddrs::to_socket_addrs(&(host.as_str(), *port))?
                    .next()
                    .context("the name has no address")?;
                let socket = RawSocket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
                socket.set_reuse_address(true)?;
                socket.set_reuse_port(config.proxy.reuse_port)?;
                socket.set_nonblocking(true)?;
                tune(&socket)?;
                socket.bind(&address.into())?;
                socket.listen(config.proxy.backlog as i32)?;
                Ok(Self::Tcp(TcpListener::from_std(socket.into())?))
            }
            Endpoint::Unix(path) => {
                remove_stale(path)?;
                Ok(Self::Unix(UnixListener::bind(path)?, endpoint.clone()))
            }
        }
    }

    fn port(&self) -> u16 {
        match self {
            Self::Tcp(listener) => listener.local_addr().map_or(0, |address| address.port()),
            Self::Unix(..) => 0,
        }
    }

    fn address(&self) -> String {
        match self {
            Self::Tcp(listener) => listener.local_addr().map_or_else(|_| String::new(), |address| address.to_string()),
            Self::Unix(_, endpoint) => endpoint.to_string(),
        }
    }

    async fn accept(&self) -> std::io::Result<(Socket, String, String, bool)> {
        match self {
            Self::Tcp(listener) => {
                let (stream, peer) = listener.accept().await?;
                let local = stream.local_addr()?.to_string();
                let trusted = match peer.ip() {
                    IpAddr::V4(ip) => ip.is_loopback(),
                    IpAddr::V6(ip) => ip.is_loopback(),
                };
                Ok((Socket::tcp(stream)?, peer.to_string(), local, trusted))
            }
            Self::Unix(listener, endpoint) => {
                let (stream, _) = listener.accept().await?;
                let path = endpoint.to_string().trim_start_matches("unix:").to_owned();
                Ok((Socket::unix(stream)?, format!("{path}:0"), format!("{path}:0"), true))
            }
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Self::Unix(_, Endpoint::Unix(path)) = self {
            _ = std::fs::remove_file(path);
        }
    }
}

/// A socket file that a process left behind when it was killed is in the way; one in use is not.
fn remove_stale(path: &Path) -> std::io::Result<()> {
    let in_use = std::os::unix::net::UnixStream::connect(path).is_ok();
    let is_socket =
        path.symlink_metadata().is_ok_and(|file| std::os::unix::fs::FileTypeExt::is_socket(&file.file_type()));
    if is_socket && !in_use { std::fs::remove_file(path) } else { Ok(()) }
}

async fn accept(listener: Listener, acceptor: Arc<Acceptor>, mut stop: watch::Receiver<bool>) {
    // Once for as long as it lasts, not once for every attempt.
    let mut told = false;
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stop.wait_for(|stop| *stop) => return,
        };
        match accepted {
            Ok((socket, peer, local, trusted)) => {
                told = false;
                let id = acceptor.next_id.fetch_add(1, Ordering::Relaxed);
                let about = About { id, peer, local, trusted, ..About::default() };
                acceptor.hand_over(Arrival { socket, about }).await;
            }
            Err(error) => {
                acceptor.metrics.control().refuse(Refusal::Resources);
                if !mem::replace(&mut told, true) {
                    warn!(%error, "clients cannot be accepted");
                }
                // Out of descriptors: trying again at once would only burn the CPU.
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            }
        }
    }
}

impl Acceptor {
    async fn hand_over(&self, arrival: Arrival) {
        // Those on their way count too: several may come before a worker wakes up.
        if self.metrics.clients() + self.queues.iter().map(Queue::waiting).sum::<i64>() >= self.clients_max {
            self.metrics.control().refuse(Refusal::MaxClients);
            // Redis' words for one client too many; a socket that is new takes them.
            let mut socket = arrival.socket;
            _ = socket.write(b"-ERR max number of clients reached\r\n");
            return;
        }
        let workers = self.metrics.workers().iter().zip(&self.queues);
        let Some((_, queue)) = workers.min_by_key(|(worker, queue)| worker.clients.value() + queue.waiting()) else {
            return;
        };
        match queue.arrivals.send(arrival).await {
            Ok(()) => queue.bell.ring(),
            Err(_) => self.metrics.control().refuse(Refusal::Draining),
        }
    }
}

/// The engine's options from the configuration.
fn options(config: &Config, topology: &Topology, workers: &[Arc<WorkerMetrics>], port: u16) -> Options {
    let limits = &config.limits;
    let bytes = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
    let micros = |duration: std::time::Duration| duration.as_micros() as u64;
    let secret = |secret: &Option<crate::config::Secret>| secret.as_ref().map(|secret| secret.reveal().to_owned());
    let epoch = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |age| age.as_micros() as u64);
    Options {
        limits: Limits { bulk_bytes_max: limits.request_bytes_max as i64, ..Limits::default() },
        query_bytes_max: bytes(limits.query_buffer_bytes_max),
        client_inflight_max: limits.client_inflight_max as usize,
        client_output_bytes_max: bytes(limits.client_output_bytes_max),
        subscribers: engine::OutputLimits {
            hard_bytes_max: bytes(limits.subscriber_output_hard_bytes_max),
            soft_bytes_max: bytes(limits.subscriber_output_soft_bytes_max),
            soft_time: micros(config.timeouts.subscriber_output),
        },
        backend_buffer_bytes_max: bytes(limits.backend_buffer_bytes_max),
        backend_inflight_max: limits.backend_inflight_max as usize,
        client_output_hard_bytes_max: bytes(limits.client_output_hard_bytes_max),
        client_idle: micros(config.timeouts.client_idle),
        leases_max: limits.leases_max as usize,
        transaction_leases_max: limits.transaction_leases_max as usize,
        gather: config.commands.cross_shard == CrossShard::Gather,
        gather_bytes_max: bytes(limits.cross_shard_max_bytes),
        prepared: config.commands.cross_shard_transactions == CrossShardTransactions::Prepared,
        close_on_shard_errors: config.commands.shard_errors == ShardErrors::Close,
        connect_timeout: micros(config.timeouts.connect),
        request_timeout: micros(config.timeouts.request),
        script_timeout: micros(config.timeouts.script),
        users: config
            .user
            .iter()
            .map(|user| User {
                name: user.name.clone(),
                password: secret(&user.password).unwrap_or_default(),
                admin: user.admin,
            })
            .collect(),
        admin: config.commands.admin,
        keyless_scripts: keyless(&config.commands.keyless_scripts, topology),
        keyless: config
            .commands
            .keyless
            .iter()
            .filter_map(|(name, place)| Some((name.to_lowercase().replace(' ', "|"), keyless(place, topology)?)))
            .collect(),
        deny: config.commands.deny.iter().flat_map(|name| command::named(name)).collect(),
        credentials: config
            .backend
            .iter()
            .map(|backend| Credentials { username: backend.username.clone(), password: secret(&backend.password) })
            .collect(),
        databases: 16,
        epoch,
        worker: 0,
        tallies: Arc::default(),
        board: (workers.len() > 1).then(Arc::default),
        facts: engine::Facts {
            version: env!("CARGO_PKG_VERSION"),
            port,
            pid: std::process::id(),
            run_id: format!(
                "{:016x}{:016x}{:08x}",
                xxhash_rust::xxh3::xxh3_64(&epoch.to_be_bytes()),
                epoch,
                std::process::id()
            ),
            threads: workers.len(),
            clients_max: limits.clients_max as usize,
            parameters: parameters(config),
            workers: workers.to_vec(),
        },
    }
}

/// Where the workers count keys of several shards; presets are known by name.
fn tallies(threads: usize) -> Arc<Tallies> {
    let presets = Config::presets().into_iter().filter_map(|(name, rules)| Preset::new(name, rules));
    Arc::new(Tallies::new(threads, presets.collect()))
}

/// What CONFIG GET says of the parameters that concern clients, in Redis' words.
fn parameters(config: &Config) -> Vec<(&'static str, String)> {
    let (limits, timeouts) = (&config.limits, &config.timeouts);
    let hosts = config.proxy.listen.iter().filter_map(|endpoint| match endpoint {
        Endpoint::Tcp { host, .. } => Some(host.as_str()),
        Endpoint::Unix(_) => None,
    });
    let socket = config.proxy.listen.iter().find_map(|endpoint| match endpoint {
        Endpoint::Unix(path) => Some(path.display().to_string()),
        Endpoint::Tcp { .. } => None,
    });
    let output = format!(
        "normal {} 0 0 slave 0 0 0 pubsub {} {} {}",
        limits.client_output_hard_bytes_max,
        limits.subscriber_output_hard_bytes_max,
        limits.subscriber_output_soft_bytes_max,
        timeouts.subscriber_output.as_secs()
    );
    vec![
        ("bind", hosts.collect::<Vec<_>>().join(" ")),
        ("unixsocket", socket.unwrap_or_default()),
        ("timeout", timeouts.client_idle.as_secs().to_string()),
        ("client-output-buffer-limit", output),
    ]
}

fn keyless(keyless: &Keyless, topology: &Topology) -> Option<ShardId> {
    match keyless {
        Keyless::Home => Some(topology.home()),
        Keyless::Refuse => None,
        Keyless::Shard(name) => topology.named(name),
    }
}

/// What the admin port tells of the topology; its gauges are set on the way.
fn facts(config: &Config, topology: &Topology, metrics: &Metrics) -> admin::Facts {
    let shards = topology.shards().len();
    let control = metrics.control();
    control.topology_version.set(topology.version() as i64);
    for index in 0..shards {
        control.slots[index].set(i64::from(topology.slots_of(ShardId(index as u16))));
    }
    admin::Facts {
        advice: None,
        topology_version: topology.version(),
        quorum: match config.admin.ready_quorum {
            ReadyQuorum::All => shards,
            ReadyQuorum::Majority => shards / 2 + 1,
            ReadyQuorum::AtLeast(count) => count as usize,
        },
        shards: (0..shards as u16)
            .map(|index| {
                let (id, shard) = (ShardId(index), topology.shard(ShardId(index)));
                ShardFacts {
                    name: shard.name.clone(),
                    address: shard.endpoint.to_string(),
                    weight: shard.weight,
                    slots: topology.slot_of(b"").map(|_| topology.slots_of(id)),
                    share: topology.share(id),
                }
            })
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn a_name_that_is_still_looked_up_does_not_hold_the_end_up() {
        let since = Instant::now();
        let (answer, silence) = std::sync::mpsc::channel::<()>();
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        drive(runtime, async {
            // As the look-up does that a connection begins with.
            drop(tokio::task::spawn_blocking(move || silence.recv_timeout(Duration::from_secs(20))));
            tokio::task::yield_now().await;
        });
        assert!(since.elapsed() < Duration::from_secs(10), "{:?}", since.elapsed());
        drop(answer);
    }
}

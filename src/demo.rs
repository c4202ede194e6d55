//! `ringway demo`: real Redis servers and the proxy over them, gone without a trace at the end.
//!
//! Children run under `setpriv --pdeathsig KILL` (util-linux), so that even a demo that is killed
//! leaves none behind, and in process groups of their own, so that Ctrl-C reaches the demo alone,
//! which ends them in order. The demo runs on the process' first thread, which lives as long as
//! the process: the kernel sends that signal when the thread that started the child ends.

use std::ffi::{OsStr, OsString};
use std::fs::{self, DirBuilder};
use std::io::{self, Write as _};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{Instant, sleep, timeout};

/// The proxy's port, unless it is taken.
const PORT: u16 = 7379;

/// How long a process may take until it answers.
const START_MAX: Duration = Duration::from_secs(20);

/// How long a process may take to end by itself.
const STOP_MAX: Duration = Duration::from_secs(12);

/// Runs the demo, and `command` against it; the exit code of the process.
///
/// # Errors
/// A server or the proxy cannot be started, or ends early.
pub fn run(shards: u16, port: Option<u16>, command: &[OsString]) -> anyhow::Result<u8> {
    for program in ["redis-server", "setpriv"] {
        let package = if program == "setpriv" { "util-linux" } else { program };
        if !on_path(program) {
            bail!("{program} is not on the PATH: apt-get install {package}");
        }
    }
    if let Some(program) = command.first()
        && !program.as_encoded_bytes().contains(&b'/')
        && !on_path(program)
    {
        bail!("{} is not on the PATH", program.display());
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        // Before the first child, so that no signal finds the demo without its ear.
        let mut signals = Signals::new()?;
        let directory = Directory::new()?;
        let mut demo = Demo::default();
        let code = tokio::select! {
            code = demo.play(&directory.0, shards, port, command) => code,
            signal = signals.next() => {
                // A command has heard of Ctrl-C itself and may tidy up.
                let code = match demo.command.take() {
                    Some(child) if signal == SignalKind::interrupt() => ended(child).await,
                    Some(_) => 128u8.saturating_add(signal.as_raw_value() as u8),
                    None => 0,
                };
                Ok(code)
            }
        };
        demo.stop().await;
        code
    })
}

/// The processes, in the order of their start. Dropping kills them.
#[derive(Default)]
struct Demo {
    servers: Vec<Child>,
    proxy: Option<Child>,
    command: Option<Child>,
}

impl Demo {
    async fn play(
        &mut self,
        directory: &Path,
        shards: u16,
        port: Option<u16>,
        command: &[OsString],
    ) -> anyhow::Result<u8> {
        let ports = Ports::choose(shards, port)?;
        for (index, port) in ports.servers.iter().enumerate() {
            self.servers.push(server(directory, index, *port)?);
        }
        for (index, (child, port)) in self.servers.iter_mut().zip(&ports.servers).enumerate() {
            answers(child, *port, &directory.join(format!("redis-{index}.log")))
                .await
                .with_context(|| format!("redis-server on port {port}"))?;
        }
        let config = directory.join("ringway.toml");
        fs::write(&config, configuration(&ports))?;
        let log = directory.join("ringway.log");
        let program = std::env::current_exe().context("cannot find the ringway program")?;
        let args = [OsStr::new("run"), OsStr::new("-c"), config.as_os_str()];
        let mut proxy = supervised(&program, &args);
        proxy.process_group(0).stdin(Stdio::null()).stdout(Stdio::null());
        proxy.stderr(fs::File::create(&log)?);
        let proxy = self.proxy.insert(proxy.spawn().context("cannot start the proxy")?);
        answers(proxy, ports.proxy, &log).await.context("the proxy")?;

        if command.is_empty() {
            // Without a reader there is nobody to tell, and the demo goes on.
            io::stdout().write_all(welcome(&ports).as_bytes()).ok();
            let status = proxy.wait().await?;
            bail!("the proxy ended ({status}): {}", last_line(&log));
        }
        let mut child = supervised(command[0].as_ref(), &command[1..]);
        child.env("REDIS_URL", format!("redis://127.0.0.1:{}", ports.proxy));
        let child = self.command.insert(child.spawn().context("cannot start the command")?);
        let status = child.wait().await?;
        Ok(code(status))
    }

    /// Ends the proxy first, so that it finds no server gone.
    async fn stop(mut self) {
        drop(self.command.take());
        for mut child in self.proxy.take().into_iter().chain(self.servers) {
            child.start_kill().ok();
            timeout(STOP_MAX, child.wait()).await.ok();
        }
    }
}

/// The ports of this demo, chosen by the kernel except where one was asked for.
struct Ports {
    proxy: u16,
    admin: u16,
    servers: Vec<u16>,
}

impl Ports {
    fn choose(shards: u16, asked: Option<u16>) -> anyhow::Result<Self> {
        let bind = |port| TcpListener::bind((Ipv4Addr::LOCALHOST, port));
        let proxy = match asked {
            Some(port) => bind(port).with_context(|| format!("port {port}"))?,
            None => bind(PORT).or_else(|_| bind(0))?,
        };
        let others = (0..=shards).map(|_| bind(0)).collect::<io::Result<Vec<_>>>()?;
        // All are held until all are chosen: no two are the same.
        let mut ports = others.iter().map(|one| Ok(one.local_addr()?.port()));
        let admin = ports.next().unwrap_or_else(|| Err(io::ErrorKind::AddrInUse.into()))?;
        let servers = ports.collect::<io::Result<Vec<_>>>()?;
        Ok(Self { proxy: proxy.local_addr()?.port(), admin, servers })
    }
}

/// The directory of this demo, removed with all that is in it.
struct Directory(PathBuf);

impl Directory {
    fn new() -> anyhow::Result<Self> {
        let path = std::env::temp_dir().join(format!("ringway-demo-{}", std::process::id()));
        let made = DirBuilder::new().mode(0o700).create(&path);
        made.with_context(|| format!("cannot create {}", path.display()))?;
        Ok(Self(path))
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).ok();
    }
}

/// The signals that end a demo.
struct Signals([(SignalKind, Signal); 3]);

impl Signals {
    fn new() -> io::Result<Self> {
        let listen = |kind| Ok::<_, io::Error>((kind, signal(kind)?));
        Ok(Self([listen(SignalKind::interrupt())?, listen(SignalKind::terminate())?, listen(SignalKind::hangup())?]))
    }

    async fn next(&mut self) -> SignalKind {
        let [interrupt, terminate, hangup] = &mut self.0;
        tokio::select! {
            _ = interrupt.1.recv() => interrupt.0,
            _ = terminate.1.recv() => terminate.0,
            _ = hangup.1.recv() => hangup.0,
        }
    }
}

/// A command that dies with this process. The shell in between sees to it that this process was
/// still alive when `setpriv` asked for the signal: an orphan has another parent, and ends.
fn supervised<S: AsRef<OsStr>>(program: &Path, args: &[S]) -> Command {
    const GUARD: &str = "[ \"$PPID\" = \"$0\" ] && exec \"$@\"";
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--", "sh", "-c", GUARD]).arg(std::process::id().to_string());
    command.arg(program).args(args).kill_on_drop(true);
    command
}

/// A Redis server that writes nothing but its log.
fn server(directory: &Path, index: usize, port: u16) -> anyhow::Result<Child> {
    let log = directory.join(format!("redis-{index}.log"));
    let port = port.to_string();
    let args = ["--port", &port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"];
    let mut command = supervised(Path::new("redis-server"), &args);
    command.process_group(0).current_dir(directory).stdin(Stdio::null());
    command.stdout(fs::File::create(&log)?).stderr(Stdio::null());
    command.spawn().context("cannot start redis-server")
}

/// Waits until a process answers PING on its port.
async fn answers(child: &mut Child, port: u16, log: &Path) -> anyhow::Result<()> {
    let deadline = Instant::now() + START_MAX;
    loop {
        if let Some(status) = child.try_wait()? {
            bail!("ended at its start ({status}): {}", last_line(log));
        }
        if matches!(timeout(Duration::from_secs(1), ping(port)).await, Ok(Ok(true))) {
            return Ok(());
        }
        if Instant::now() > deadline {
            bail!("no answer on port {port} in {} s: {}", START_MAX.as_secs(), last_line(log));
        }
        sleep(Duration::from_millis(10)).await;
    }
}

async fn ping(port: u16) -> io::Result<bool> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
    stream.write_all(b"PING\r\n").await?;
    let mut reply = [0; 7];
    stream.read_exact(&mut reply).await?;
    Ok(&reply == b"+PONG\r\n")
}

/// Waits for a command that has been told to end; its exit code.
async fn ended(mut child: Child) -> u8 {
    match timeout(STOP_MAX, child.wait()).await {
        Ok(Ok(status)) => code(status),
        _ => 128 + 2,
    }
}

/// An exit code as a shell would give it.
fn code(status: ExitStatus) -> u8 {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1)
}

fn configuration(ports: &Ports) -> String {
    // Two demos must not share a port unnoticed.
    let mut text = format!(
        "[proxy]\nlisten = [\"127.0.0.1:{}\"]\nreuse_port = false\n[admin]\nlisten = \"127.0.0.1:{}\"\n[commands]\nadmin = true\n",
        ports.proxy, ports.admin
    );
    for (index, port) in ports.servers.iter().enumerate() {
        text += &format!("[[backend]]\nname = \"redis-{index}\"\naddress = \"127.0.0.1:{port}\"\n");
    }
    text
}

fn welcome(ports: &Ports) -> String {
    let Ports { proxy, admin, servers } = ports;
    let one = servers.first().copied().unwrap_or_default();
    let servers: Vec<String> = servers.iter().map(ToString::to_string).collect();
    format!(
        "Ringway on port {proxy}, over {} Redis servers on ports {}.\n\
         \n  redis-cli -p {proxy} set user:42 hello\n  redis-cli -p {proxy} mget user:41 user:42 user:43\n  \
         redis-cli -p {proxy} ringway locate user:42\n  redis-cli -p {proxy} info ringway\n  \
         redis-cli -p {one} dbsize              (one of the servers, directly)\n  \
         redis-benchmark -p {proxy} -q -n 100000 -P 16 -t set,get\n\
         \nStatus and metrics: http://127.0.0.1:{admin}/\nCtrl-C ends it all and leaves nothing behind.\n",
        servers.len(),
        servers.join(", "),
    )
}

fn last_line(log: &Path) -> String {
    let text = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let line = text.lines().rev().find(|line| !line.trim().is_empty());
    line.unwrap_or("it said nothing").trim().to_owned()
}

fn on_path(program: impl AsRef<Path>) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|directory| directory.join(program.as_ref()).is_file())
}

//! Real redis-server processes without persistence, on loopback ports given by the kernel.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use super::{Client, PATIENCE, Process, poll, scratch};

/// One redis-server. Dropping it kills it.
pub struct Redis {
    port: u16,
    directory: PathBuf,
    options: Vec<String>,
    /// `None` while it is stopped or killed.
    process: Option<Process>,
}

/// `n` fresh servers.
pub fn shards(n: usize) -> Vec<Redis> {
    (0..n).map(|_| Redis::start()).collect()
}

impl Redis {
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// `options` as on redis-server's command line: `["--requirepass", "secret"]`.
    pub fn start_with(options: &[&str]) -> Self {
        let options = options.iter().map(|&option| option.to_owned()).collect();
        let mut redis = Self { port: 0, directory: scratch("redis"), options, process: None };
        // Somebody else may take a port between our asking for it and the server's bind.
        let started = poll(PATIENCE, || {
            let asked = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            redis.port = asked.local_addr().unwrap().port();
            drop(asked);
            redis.spawn().then_some(())
        });
        assert!(started.is_some(), "no redis-server came up");
        redis
    }

    /// One that comes back from a death with all that it acknowledged: it is written before, what the
    /// kernel has outlives the process, and no disk is waited for.
    pub fn durable() -> Self {
        Self::start_with(&["--appendonly", "yes", "--appendfsync", "no"])
    }

    /// Starts it again on the same port, empty unless it is [`durable`](Self::durable).
    pub fn restart(&mut self) {
        self.kill();
        let started = poll(PATIENCE, || self.spawn().then_some(()));
        assert!(started.is_some(), "redis-server did not come back on port {}", self.port);
    }

    /// SIGKILL: its connections break, its data is gone.
    pub fn kill(&mut self) {
        self.process = None;
    }

    /// A clean end.
    pub fn stop(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.signal("TERM");
            assert!(process.wait(PATIENCE).is_some(), "redis-server ignores SIGTERM");
        }
    }

    /// SIGSTOP: connections stay open, nothing is answered.
    pub fn pause(&self) {
        self.process.as_ref().unwrap().signal("STOP");
    }

    /// SIGCONT.
    pub fn resume(&self) {
        self.process.as_ref().unwrap().signal("CONT");
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port).into()
    }

    pub fn client(&self) -> Client {
        Client::connect(self.address())
    }

    /// One attempt; false when the server did not come up, so most likely lost its port.
    fn spawn(&mut self) -> bool {
        let mut process = Process::start("redis-server", |command| {
            command.args(["--port", &self.port.to_string(), "--bind", "127.0.0.1", "--save", ""]);
            command.args(["--appendonly", "no", "--loglevel", "warning", "--enable-debug-command", "local"]);
            command.args(["--dir", &self.directory.to_string_lossy(), "--logfile", "redis.log"]);
            command.args(&self.options);
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        });
        let address = self.address();
        // A stranger could answer on a port that was lost: the process id tells.
        let ours = format!("process_id:{}\r\n", process.id());
        let password = self.options.iter().position(|option| option == "--requirepass");
        let password = password.and_then(|at| self.options.get(at + 1)).cloned();
        let up = poll(PATIENCE, || {
            if process.ended().is_some() {
                return Some(false);
            }
            let mut client = Client::try_connect(address, Duration::from_secs(5)).ok()?;
            if let Some(password) = &password {
                client.try_call(&["AUTH", password]).ok()?;
            }
            let info = client.try_call(&["INFO", "server"]).ok()?;
            Some(info.text().contains(&ours))
        });
        if up == Some(true) {
            self.process = Some(process);
        }
        up == Some(true)
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.process = None;
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

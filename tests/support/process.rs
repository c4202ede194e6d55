//! Child processes that nothing outlives: killed when dropped, and by the kernel when the test
//! binary itself dies.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{LazyLock, Mutex, Once};
use std::time::Duration;

use super::poll;

/// A running child process.
pub struct Process {
    child: Child,
}

type Job = (Command, SyncSender<std::io::Result<Child>>);

/// The kernel sends the death signal when the *thread* that started a child ends, and a test's
/// thread ends with its test: one thread that never ends starts every child.
static STARTER: LazyLock<Mutex<SyncSender<Job>>> = LazyLock::new(|| {
    let (jobs, inbox) = sync_channel::<Job>(16);
    std::thread::spawn(move || {
        for (mut command, reply) in inbox {
            let _ = reply.send(command.spawn());
        }
    });
    Mutex::new(jobs)
});

impl Process {
    /// Starts `program`; `prepare` adds arguments, directories and pipes.
    pub fn start(program: impl AsRef<Path>, prepare: impl FnOnce(&mut Command)) -> Self {
        let program = program.as_ref();
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).arg(program);
        prepare(&mut command);
        let (reply, answer) = sync_channel(1);
        STARTER.lock().unwrap().send((command, reply)).unwrap();
        let child = answer.recv().unwrap().unwrap_or_else(|error| panic!("{}: {error}", program.display()));
        Self { child }
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    pub fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// The exit status, if it has ended.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// Waits for the end by itself; `None` when it still runs after `patience`.
    pub fn wait(&mut self, patience: Duration) -> Option<ExitStatus> {
        poll(patience, || self.ended())
    }

    /// SIGKILL, and waits until the process is gone.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Sends a signal by name: `STOP`, `CONT`, `TERM`, `HUP`.
    pub fn signal(&self, name: &str) {
        // The shell's own kill: the program of that name is a package that may be missing.
        let line = format!("kill -{name} {}", self.id());
        let done = Command::new("sh").args(["-c", &line]).status().unwrap();
        assert!(done.success(), "{line}");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A new directory for one server. Servers shared by a whole binary are never dropped, so the first
/// use removes what binaries that have ended left behind.
pub fn scratch(what: &str) -> PathBuf {
    static SWEEP: Once = Once::new();
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let root = Path::new(env!("CARGO_TARGET_TMPDIR")).join("servers");
    SWEEP.call_once(|| {
        for entry in fs::read_dir(&root).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let owner = name.split('-').next().unwrap_or_default().to_owned();
            if !Path::new("/proc").join(owner).exists() {
                let _ = fs::remove_dir_all(entry.path());
            }
        }
    });
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let path = root.join(format!("{}-{number}-{what}", std::process::id()));
    fs::create_dir_all(&path).unwrap();
    path
}

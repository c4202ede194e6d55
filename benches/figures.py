"""The pure half of the comparison: what is asked, what the load generator said, what the samples
mean. No process, no clock, no file."""

import dataclasses
import math
import statistics

SMALL, LARGE = 3, 20_000
# Distinct keys: few enough that 20 kB values of all of them fit three servers easily.
SMALL_KEYS, LARGE_KEYS = 100_000, 1_000
# redis-benchmark writes that many digits for __rand_int__: no key is shorter.
NUMBER_BYTES = 12
# Whose promises BARS are.
SUBJECT = "ringway"


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of the tables: a command at a pipeline depth and a value size."""

    name: str
    command: str
    pipeline: int = 1
    size: int = SMALL
    # Keys in each request.
    keys: int = 1
    # Requests per sample, in units of --requests: fast rows need more for the same time.
    factor: float = 1.0
    clients: int = 50
    key_bytes: int = 16
    resp3: bool = False
    # Threads of the load generator.
    threads: int = 1

    @property
    def prefix(self) -> str:
        """What stands before the number in a key."""
        width = self.key_bytes - NUMBER_BYTES
        return ("key:" if self.size == SMALL else "big:").rjust(width, "x")[:width]

    @property
    def keyspace(self) -> int:
        return SMALL_KEYS if self.size == SMALL else LARGE_KEYS

    @property
    def writes(self) -> bool:
        return self.command in ("set", "mset")

    def words(self) -> list[str]:
        """The request as redis-benchmark wants it: it puts a number for __rand_int__."""
        one = [f"{self.prefix}__rand_int__"] + (["x" * self.size] if self.writes else [])
        return [self.command, *(one * self.keys)]

    def requests(self, unit: int) -> int:
        """A multiple of what all clients send at once, so that exactly so many are sent."""
        return max(round(unit * self.factor / self.pipeline), self.clients) * self.pipeline


ROWS = (
    Row("GET P1", "get"),
    Row("SET P1", "set"),
    Row("GET P16", "get", pipeline=16, factor=6),
    Row("SET P16", "set", pipeline=16, factor=6),
    Row("GET P64", "get", pipeline=64, factor=12),
    Row("SET P64", "set", pipeline=64, factor=12),
    Row("GET 20 kB", "get", size=LARGE, factor=0.5),
    Row("SET 20 kB", "set", size=LARGE, factor=0.5),
    Row("MGET 10", "mget", keys=10, factor=0.4),
    Row("MSET 10", "mset", keys=10, factor=0.4),
)


@dataclasses.dataclass(frozen=True)
class Sample:
    """One run of the load generator against one proxy; `cpu_ns` is None without a process."""

    pinning: str
    round: int
    row: str
    proxy: str
    requests: int
    rps: float
    # None of a load that was held for others.
    p50_ms: float | None
    p99_ms: float | None
    cpu_ns: int | None
    peak_kib: int | None
    # Of the same CPU, as the kernel tells the two apart: hundredths of a second in user space and in the kernel.
    user: int = 0
    kernel: int = 0

    @property
    def cpu(self) -> float | None:
        """CPU seconds per million requests."""
        return None if self.cpu_ns is None else self.cpu_ns / 1e3 / self.requests


@dataclasses.dataclass(frozen=True)
class Spread:
    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{number(self.median)} ({number(self.low)}–{number(self.high)})"


@dataclasses.dataclass(frozen=True)
class Bar:
    """A promise: at `rows`, SUBJECT's CPU per request is at most `most` times that of `peer`."""

    rows: tuple[str, ...]
    pinning: str
    peer: str
    most: float


EVERY = tuple(row.name for row in ROWS)
SHORT = ("GET P1", "SET P1", "GET P16", "SET P16", "GET P64", "SET P64")
BARS = (
    Bar(SHORT[:2], "pinned", "nutcracker", 0.75),
    Bar(SHORT[2:4], "pinned", "nutcracker", 0.20),
    Bar(SHORT[4:], "pinned", "nutcracker", 0.10),
    Bar(("GET 20 kB",), "pinned", "nutcracker", 0.75),
    Bar(("SET 20 kB",), "pinned", "nutcracker", 0.80),
    Bar(("MGET 10", "MSET 10"), "pinned", "nutcracker", 0.50),
    Bar(SHORT[:2], "unpinned", "haproxy", 0.80),
    Bar(SHORT[2:4], "unpinned", "haproxy", 1.05),
    Bar(SHORT[4:], "unpinned", "haproxy", 1.10),
    Bar(EVERY, "pinned", "nutcracker", 1.0),
    Bar(EVERY, "unpinned", "nutcracker", 1.0),
    Bar(SHORT, "pinned", "haproxy", 1.25),
    Bar(SHORT, "unpinned", "haproxy", 1.25),
)
# System calls of SUBJECT per request.
SYSCALL_BARS = {"GET P1": 2.75, "GET P16": 0.21}


def number(value: float) -> str:
    """Three digits that mean something."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def spread(values: list[float]) -> Spread:
    return Spread(statistics.median(values), min(values), max(values))


def rank(values: list[float], part: float) -> float:
    """The value that so large a part does not exceed, by nearest rank: one that occurred, however few there are."""
    return sorted(values)[max(0, math.ceil(len(values) * part) - 1)]


def order(proxies: list[str], turn: int) -> list[str]:
    """A B, B A, A B, ...: a drift of the machine's speed falls on all alike."""
    return proxies[::-1] if turn % 2 else list(proxies)


def parse_csv(text: str) -> tuple[float, float, float]:
    """rps, p50 and p99 in ms from `redis-benchmark --csv`."""
    lines = [line for line in text.splitlines() if line.startswith('"')]
    if len(lines) != 2:
        raise ValueError(f"no figures: {text.strip()[-200:]}")
    # The title of a row is the command itself; it never holds a comma here.
    names, values = ([cell.strip('"') for cell in line.split(",")] for line in lines)
    row = dict(zip(names, values, strict=True))
    return float(row["rps"]), float(row["p50_latency_ms"]), float(row["p99_latency_ms"])


def parse_syscalls(text: str) -> int:
    """All calls of a `strace -c` summary."""
    for line in reversed(text.splitlines()):
        cells = line.split()
        if cells and cells[-1] == "total":
            # "100.00 0.12 5 1234 total", with a column of errors before the last when there were any.
            return int(cells[3])
    raise ValueError("strace gave no summary")


def parse_instructions(text: str) -> int:
    """All instructions of a callgrind file."""
    for line in text.splitlines():
        if line.startswith(("totals:", "summary:")):
            return int(line.split()[1])
    raise ValueError("callgrind gave no total")


def parse_info(text: str) -> dict[str, str]:
    """INFO's lines as names and values."""
    return dict(line.split(":", 1) for line in text.splitlines() if ":" in line and not line.startswith("#"))


def select(samples: list[Sample], **wanted: str) -> list[Sample]:
    return [s for s in samples if all(getattr(s, name) == value for name, value in wanted.items())]


def ratios(samples: list[Sample], subject: str, other: str) -> list[float]:
    """CPU per request of `subject` over `other`, of the two samples that stood side by side in a round."""
    others = {(s.pinning, s.round, s.row): s.cpu for s in samples if s.proxy == other and s.cpu}
    return [
        s.cpu / others[place]
        for s in samples
        if s.proxy == subject and s.cpu and (place := (s.pinning, s.round, s.row)) in others
    ]


def table(head: list[str], lines: list[list[str]]) -> str:
    rule = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join("| " + " | ".join(line) + " |" for line in [head, rule, *lines]) + "\n"


def cpu_table(samples: list[Sample], rows: list[str], proxies: list[str]) -> str:
    """CPU seconds per million requests, and the ratios to every peer of BARS that took part."""
    peers = [peer for peer in dict.fromkeys(bar.peer for bar in BARS) if {SUBJECT, peer} <= set(proxies)]
    burning = [name for name in proxies if any(s.cpu is not None for s in select(samples, proxy=name))]
    head = ["", *burning, *(f"{SUBJECT} / {peer}" for peer in peers)]
    lines = []
    for row in rows:
        line = [row]
        for name in burning:
            line.append(str(spread([s.cpu for s in select(samples, row=row, proxy=name)])))
        for peer in peers:
            line.append(str(spread(ratios(select(samples, row=row), SUBJECT, peer))))
        lines.append(line)
    return table(head, lines)


def kernel_table(samples: list[Sample], rows: list[str], proxies: list[str]) -> str:
    """The kernel's part of each proxy's CPU, and what SUBJECT's ratios to the peers of BARS would be if it did
    nothing but call the kernel: no saving of its own instructions gets below."""
    peers = [peer for peer in dict.fromkeys(bar.peer for bar in BARS) if {SUBJECT, peer} <= set(proxies)]
    burning = [name for name in proxies if any(s.kernel for s in select(samples, proxy=name))]
    lines = []
    for row in rows:
        taken = select(samples, row=row)
        parts = {name: kernel_part(select(taken, proxy=name)) for name in burning}
        floors = [statistics.median(ratios(taken, SUBJECT, peer)) * parts[SUBJECT] for peer in peers]
        lines.append([row, *(f"{part:.0%}" for part in parts.values()), *map(number, floors)])
    return table(["", *burning, *(f"kernel of {SUBJECT} / {peer}" for peer in peers)], lines)


def kernel_part(samples: list[Sample]) -> float:
    kernel = sum(s.kernel for s in samples)
    return kernel / max(1, kernel + sum(s.user for s in samples))


def speed_table(samples: list[Sample], rows: list[str], proxies: list[str]) -> str:
    """Thousand requests per second, and p50 / p99 in milliseconds."""
    lines = []
    for row in rows:
        line = [row]
        for name in proxies:
            taken = select(samples, row=row, proxy=name)
            rps = spread([s.rps / 1000 for s in taken])
            p50, p99 = (statistics.median(getattr(s, field) for s in taken) for field in ("p50_ms", "p99_ms"))
            line.append(f"{rps}; {number(p50)} / {number(p99)}")
        lines.append(line)
    return table(["", *proxies], lines)


def memory_table(samples: list[Sample], rows: list[str], proxies: list[str]) -> str:
    """Peak resident memory, MiB: the largest of all samples of the row."""
    known = [name for name in proxies if any(s.peak_kib for s in select(samples, proxy=name))]
    lines = [
        [row, *(number(max(s.peak_kib or 0 for s in select(samples, row=row, proxy=name)) / 1024) for name in known)]
        for row in rows
    ]
    return table(["", *known], lines)


def verdict(promise: str, found: dict[str, float], most: float) -> str:
    """One line for a promise, which has {} where the limit stands: whether all that was found keeps to it."""
    over = [f"{name} {beside(value)}" for name, value in found.items() if value > most]
    largest = max(found, key=found.__getitem__)
    held = f"NOT: {', '.join(over)}" if over else f"holds (largest {beside(found[largest])}, {largest})"
    return f"{promise.format(f'{most:,g}')}: {held}"


def beside(value: float) -> str:
    """A figure to stand beside its limit: one digit more than elsewhere tells 0.752 from 0.75."""
    return f"{value:.3f}" if value < 10 else number(value)


def verdicts(samples: list[Sample], syscalls: dict[str, float]) -> list[str]:
    """A line for each bar, by the medians of the rows that were measured; `syscalls` are SUBJECT's."""
    lines = []
    for bar in BARS:
        found = {}
        for row in bar.rows:
            if both := ratios(select(samples, pinning=bar.pinning, row=row), SUBJECT, bar.peer):
                found[row] = statistics.median(both)
        if found:
            rows = "every row" if bar.rows == EVERY else ", ".join(bar.rows)
            promise = f"{bar.pinning}, {rows}: CPU per request at most {{}} of {bar.peer}'s"
            lines.append(verdict(promise, found, bar.most))
    for row, most in SYSCALL_BARS.items():
        if row in syscalls:
            lines.append(verdict("system calls per request at most {}", {row: syscalls[row]}, most))
    return lines


def bullets(lines: list[str]) -> str:
    return "\n".join(f"- {line}" for line in lines) + "\n"


@dataclasses.dataclass(frozen=True)
class Section:
    """One part of a page of results: what was measured, and which promises it keeps."""

    title: str
    bars: list[str]
    text: str


def page(head: str, sections: list[Section]) -> str:
    """All bars first, then section by section."""
    bars = [line for section in sections for line in section.bars]
    return "\n".join([head, *([bullets(bars)] if bars else []),
                      *(f"## {section.title}\n\n{section.text}" for section in sections)])

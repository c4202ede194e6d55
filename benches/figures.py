"""The pure half of the comparison: what is asked, what the load generator said, what the samples
mean. No process, no clock, no file."""

import dataclasses
import statistics

SMALL, LARGE = 3, 20_000
# Distinct keys: few enough that 20 kB values of all of them fit three servers easily.
SMALL_KEYS, LARGE_KEYS = 100_000, 1_000


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

    @property
    def prefix(self) -> str:
        return "key" if self.size == SMALL else "big"

    @property
    def keyspace(self) -> int:
        return SMALL_KEYS if self.size == SMALL else LARGE_KEYS

    @property
    def writes(self) -> bool:
        return self.command in ("set", "mset")

    @property
    def barred(self) -> bool:
        """Whether the promises of BARS speak of this row."""
        return self.size == SMALL and self.keys == 1

    def words(self) -> list[str]:
        """The request as redis-benchmark wants it: it puts a number for __rand_int__."""
        one = [f"{self.prefix}:__rand_int__"] + (["x" * self.size] if self.writes else [])
        return [self.command, *(one * self.keys)]

    def requests(self, unit: int) -> int:
        """A multiple of what all clients send at once, so that exactly so many are sent."""
        return max(round(unit * self.factor / self.pipeline), 50) * self.pipeline


ROWS = (
    Row("GET P1", "get"),
    Row("SET P1", "set"),
    Row("GET P16", "get", pipeline=16, factor=4),
    Row("SET P16", "set", pipeline=16, factor=4),
    Row("GET P64", "get", pipeline=64, factor=6),
    Row("SET P64", "set", pipeline=64, factor=6),
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
    p50_ms: float
    p99_ms: float
    cpu_ns: int | None
    peak_kib: int | None

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
    """A promise: the CPU of `subject` per request is at most `most` times that of `other`."""

    subject: str
    other: str
    most: float


BARS = (Bar("ringway", "nutcracker", 1.0), Bar("ringway", "haproxy", 1.25))


def number(value: float) -> str:
    """Three digits that mean something."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def spread(values: list[float]) -> Spread:
    return Spread(statistics.median(values), min(values), max(values))


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
    """CPU seconds per million requests, and the ratios of every bar whose parties took part."""
    bars = [bar for bar in BARS if bar.subject in proxies and bar.other in proxies]
    burning = [name for name in proxies if any(s.cpu is not None for s in select(samples, proxy=name))]
    head = ["", *burning, *(f"{bar.subject} / {bar.other}" for bar in bars)]
    lines = []
    for row in rows:
        line = [row]
        for name in burning:
            line.append(str(spread([s.cpu for s in select(samples, row=row, proxy=name)])))
        for bar in bars:
            line.append(str(spread(ratios(select(samples, row=row), bar.subject, bar.other))))
        lines.append(line)
    return table(head, lines)


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


def verdicts(samples: list[Sample], rows: list[Row]) -> list[str]:
    """One line for each bar and pinning: where it holds and where it does not."""
    lines = []
    for bar in BARS:
        for pinning in dict.fromkeys(s.pinning for s in samples):
            found = {}
            for row in rows:
                both = ratios(select(samples, pinning=pinning, row=row.name), bar.subject, bar.other)
                if row.barred and both:
                    found[row.name] = statistics.median(both)
            if not found:
                continue
            over = [f"{name} {number(ratio)}" for name, ratio in found.items() if ratio > bar.most]
            lines.append(
                f"CPU per request of {bar.subject} at most {bar.most} x {bar.other}, {pinning}: "
                + (f"NOT at {', '.join(over)}" if over else f"holds at all {len(found)} rows")
                + f" (largest {number(max(found.values()))})"
            )
    return lines

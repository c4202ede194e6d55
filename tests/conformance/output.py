"""What the suite prints, read into verdicts: one for each test, by its name and, where a file uses a
name twice, its place (`name #2`). No process is started here."""

import collections
import dataclasses
import re

COLOUR = re.compile(r"\x1b\[[0-9;]*m")
LINE = re.compile(r"^\[(ok|err|skip|ignore|exception|TIMEOUT)\]: (.*)$")
DONE = re.compile(r"^\[\d+/\d+ done\]: ")
STATE = re.compile(r"^sock\S+ => \((IN PROGRESS|OK|ERR)\) (.*)$")

PASSED, FAILED, HUNG = "passed", "failed", "hung"


@dataclasses.dataclass
class Report:
    """One run of one file."""

    # Verdict and detail of each test that began, in the order of the file.
    tests: dict[str, tuple[str, str]] = dataclasses.field(default_factory=dict)
    # Errors between tests: they end a block or the file, so that tests behind them may never begin.
    outside: list[str] = dataclasses.field(default_factory=list)
    # The suite says that it came to the end of the file.
    done: bool = False

    def whole(self) -> bool:
        return self.done and not self.outside

    def failures(self) -> list[str]:
        return [test for test, (verdict, _) in self.tests.items() if verdict != PASSED]


def parse(text: str, unit: str) -> Report:
    report = Report()
    seen: collections.Counter[str] = collections.Counter()
    ending = f" in tests/{unit}.tcl"

    def numbered(name: str) -> str:
        seen[name] += 1
        return name if seen[name] == 1 else f"{name} #{seen[name]}"

    detail: list[str] | None = None
    pending: tuple[str, list[str]] | None = None

    def close() -> None:
        nonlocal detail, pending
        if pending and detail is not None:
            test, lines = pending[0], detail
            report.tests[test] = (FAILED, " ".join(line.strip() for line in lines if line.strip())[:600])
        pending = None
        detail = None

    for line in COLOUR.sub("", text).splitlines():
        if DONE.match(line):
            close()
            report.done = True
        elif found := STATE.match(line):
            close()
            what, name = found.groups()
            if what == "IN PROGRESS":
                # A test of this name that was started but has no verdict yet.
                report.tests[numbered(name)] = (HUNG, "no progress within the limit")
            else:
                report.outside.append(f"no progress within the limit, behind: {name.removesuffix(ending)}")
        elif found := LINE.match(line):
            close()
            kind, rest = found.groups()
            if kind == "ok":
                report.tests[numbered(re.sub(r" \(\d+ ms\)$", "", rest))] = (PASSED, "")
            elif kind == "err" and rest.endswith(ending):
                pending, detail = (numbered(rest.removesuffix(ending)), []), []
            elif kind in ("err", "exception"):
                report.outside.append(rest[:300])
            elif kind == "skip":
                # Keeps the count of tests with one name right.
                numbered(rest)
        elif line.strip() == "The End":
            close()
        elif detail is not None:
            detail.append(line)
    close()
    return report


def plain_name(test: str) -> str:
    """The name by which the suite knows a test: without its place."""
    return re.sub(r" #\d+$", "", test)

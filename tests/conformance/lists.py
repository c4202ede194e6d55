"""The two committed lists and how a run is held against them.

`denominator.txt`: the tests that plain Redis passed in two runs, one line each: the settings in
which it did, the file, the name. `expected.md`: the tests that fail behind Ringway, below the
sentence that explains them."""

import collections
import pathlib
import re

HERE = pathlib.Path(__file__).resolve().parent
DENOMINATOR = HERE / "denominator.txt"
EXPECTED = HERE / "expected.md"

# A test: its file and its name.
Test = tuple[str, str]


class Malformed(Exception):
    """A committed list cannot be read; names the file and the line."""


def read_denominator(text: str) -> tuple[str, dict[str, list[Test]]]:
    """The suite's checksum that it was measured with, and the tests by setting."""
    checksum = ""
    tests: dict[str, list[Test]] = collections.defaultdict(list)
    for at, line in enumerate(text.splitlines(), 1):
        if found := re.match(r"# suite: ([0-9a-f]{64})$", line):
            checksum = found.group(1)
        elif line and not line.startswith("#"):
            parts = line.split("\t")
            if len(parts) != 3:
                raise Malformed(f"{DENOMINATOR.name}, line {at}: settings, file and name expected, with tabs between")
            for setting in parts[0]:
                tests[setting].append((parts[1], parts[2]))
    return checksum, tests


def write_denominator(checksum: str, tests: dict[str, list[Test]], note: str) -> str:
    settings: dict[Test, str] = {}
    for setting in sorted(tests):
        for test in tests[setting]:
            settings[test] = settings.get(test, "") + setting
    lines = [f"# {note}", f"# suite: {checksum}"]
    lines += [f"{where}\t{unit}\t{name}" for (unit, name), where in sorted(settings.items(), key=lambda item: item[0][0])]
    return "\n".join(lines) + "\n"


def read_expected(text: str) -> dict[str, dict[Test, str]]:
    """By setting: the tests that fail, and the sentence they stand under."""
    expected: dict[str, dict[Test, str]] = collections.defaultdict(dict)
    sentence = ""
    for at, line in enumerate(text.splitlines(), 1):
        where = f"{EXPECTED.name}, line {at}"
        if line.startswith("## "):
            sentence = ""
        elif line.startswith("> "):
            sentence += line[2:].strip() + " "
        elif line.startswith("| unit/"):
            cells = [cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
            if len(cells) != 3 or not re.fullmatch(r"[abc]+", cells[2]):
                raise Malformed(f"{where}: file, test and settings (such as ac) expected")
            if not sentence:
                raise Malformed(f"{where}: no sentence (a line with > above the table) explains this test")
            for setting in cells[2]:
                test = (cells[0], cells[1])
                if test in expected[setting]:
                    raise Malformed(f"{where}: listed twice for setting {setting}")
                expected[setting][test] = sentence.strip()
    return expected


def differences(failed: set[Test], listed: set[Test], passed_by_plain: set[Test]) -> dict[str, list[Test]]:
    """In which tests a run and the list differ, each way."""
    return {
        "fails and is not listed": sorted(failed - listed),
        "is listed and passes": sorted((listed - failed) & passed_by_plain),
        "is listed and plain Redis does not pass it": sorted(listed - passed_by_plain),
    }

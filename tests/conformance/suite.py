"""Redis' own test suite, as Debian's source package `redis` holds it: fetched once with apt-get,
unpacked anew for each run, never changed. The machine's own list of sources stays as it is: its
`deb` entries are written as `deb-src` into a list of our own below target/."""

import hashlib
import pathlib
import re
import shutil
import subprocess

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
HOME = ROOT / "target" / "conformance"
# Not a unit but what other units read.
COMMON = {"unit/type/list-common"}


class Broken(Exception):
    """The run cannot go on; says why."""


def fetched(tree: pathlib.Path) -> None:
    """Unpacks the source package at `tree`, which must not be there yet."""
    downloads = HOME / "download"
    packages = sorted(downloads.glob("redis_*.dsc"))
    if not packages:
        packages = download(downloads)
    if len(packages) != 1:
        raise Broken(f"one source package expected in {downloads}, found {len(packages)}: remove that directory")
    run(["dpkg-source", "--no-check", "-x", str(packages[0]), str(tree)])


def download(downloads: pathlib.Path) -> list[pathlib.Path]:
    shutil.rmtree(downloads, ignore_errors=True)
    apt = HOME / "apt"
    shutil.rmtree(apt, ignore_errors=True)
    for name in ("lists/partial", "archives/partial", "parts"):
        (apt / name).mkdir(parents=True)
    downloads.mkdir(parents=True)
    entries = 0
    listed = [pathlib.Path("/etc/apt/sources.list"), *sorted(pathlib.Path("/etc/apt/sources.list.d").glob("*"))]
    for at, path in enumerate(path for path in listed if path.is_file()):
        text = as_sources(path.name, path.read_text())
        if text:
            (apt / "parts" / f"{at}{path.suffix}").write_text(text)
            entries += 1
    if not entries:
        raise Broken("no deb entry in /etc/apt/sources.list or /etc/apt/sources.list.d: where is Debian's archive?")
    options = [
        f"Dir::Etc::sourcelist={apt}/none", f"Dir::Etc::sourceparts={apt}/parts", f"Dir::State::lists={apt}/lists",
        f"Dir::Cache={apt}", "APT::Sandbox::User=root",
    ]
    command = ["apt-get", "-qq", *(word for option in options for word in ("-o", option))]
    # Somebody else's archive among the entries may hold no sources; what counts is that redis is found.
    update = subprocess.run([*command, "update"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    installed = subprocess.run(["dpkg-query", "-W", "-f", "${source:Version}", "redis-server"],
                               stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True).stdout.strip()
    said = update.stdout
    for wanted in ([f"redis={installed}"] if installed else []) + ["redis"]:
        done = subprocess.run([*command, "source", "--download-only", wanted], cwd=downloads,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if done.returncode == 0:
            return sorted(downloads.glob("redis_*.dsc"))
        said += done.stdout
    raise Broken(f"apt-get found no source package redis:\n{said.strip()}")


def as_sources(name: str, text: str) -> str:
    """A file of apt's sources with every `deb` entry as `deb-src` and nothing else; "" if none is left."""
    if name.endswith(".list"):
        lines = [line for line in text.splitlines() if re.match(r"\s*deb\s", line)]
        return "".join(re.sub(r"^\s*deb\s", "deb-src ", line) + "\n" for line in lines)
    if not name.endswith(".sources"):
        return ""
    stanzas = re.split(r"\n\s*\n", "\n".join(line for line in text.splitlines() if not line.startswith("#")))
    kept = [stanza for stanza in stanzas if re.search(r"(?mi)^Types:.*\bdeb(\s|$)", stanza)]
    return "".join(re.sub(r"(?mi)^Types:.*$", "Types: deb-src", stanza.strip("\n")) + "\n\n" for stanza in kept)


def units(tree: pathlib.Path) -> list[str]:
    """Every unit file, as the suite names it: unit/type/list."""
    found = (path.relative_to(tree / "tests").with_suffix("").as_posix()
             for pattern in ("unit/*.tcl", "unit/type/*.tcl", "unit/cluster/*.tcl")
             for path in (tree / "tests").glob(pattern))
    return sorted(set(found) - COMMON)


def checksums(tree: pathlib.Path) -> dict[str, str]:
    """sha256 of each file that a run may read, by its path in the package."""
    tests = tree / "tests"
    files = [tests / "test_helper.tcl"]
    for pattern in ("support/*.tcl", "helpers/*.tcl", "unit/*.tcl", "unit/type/*.tcl", "unit/cluster/*.tcl", "assets/*"):
        files += sorted(path for path in tests.glob(pattern) if path.is_file())
    return {path.relative_to(tree).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def run(argv: list[str]) -> None:
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode != 0:
        raise Broken(f"{' '.join(argv)}: {done.stdout.strip()[-600:]}")

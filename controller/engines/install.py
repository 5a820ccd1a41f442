"""Which engines are on this machine, and how the others get here: Debian's packages, and Cassandra's jars by Maven.

Safe to run twice and from two places at once; bounded in time. Packages need root; the jars need nobody's leave.
"""

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from controller.display import Tell
from controller.engines.process import EngineError, Keeper

COMMAND = "sudo .venv/bin/rkctl engines install"
"""The one command that installs what is missing."""
CASSANDRA = "5.0.9"
ENGINES = ("cassandra", "zookeeper", "memcached", "haproxy")
_POM = f"""\
<project><modelVersion>4.0.0</modelVersion>
  <groupId>engines</groupId><artifactId>engines</artifactId><version>1</version><packaging>pom</packaging>
  <dependencies><dependency>
    <groupId>org.apache.cassandra</groupId><artifactId>cassandra-all</artifactId><version>{CASSANDRA}</version>
  </dependency></dependencies>
</project>
"""
_JARS = f"cassandra-{CASSANDRA}-{hashlib.sha256(_POM.encode()).hexdigest()[:12]}"
_SYSTEM_CACHE = Path("/var/cache/regional-keystone")
_ZOOKEEPER = Path("/usr/share/java/zookeeper.jar")
_JAVA = "17"  # Cassandra 5.0 runs on no later one
_SEARCHED = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin:/usr/local/sbin"
_PACKAGES_S, _JARS_S, _LOCK_S = 600.0, 600.0, 900.0
_LOOK_S = 0.5
_TOLD_EACH_S = 5.0


@dataclass(frozen=True, slots=True)
class Found:
    """Where each part is; None is missing."""

    java: Path | None
    maven: Path | None
    jars: Path | None
    zookeeper: Path | None
    memcached: Path | None
    haproxy: Path | None

    def missing(self, engine: str) -> list[str]:
        """What an engine lacks, in words."""
        parts: dict[str, list[tuple[str, Path | None]]] = {
            "cassandra": [("Java 17", self.java), (f"the jars of Cassandra {CASSANDRA}", self.jars)],
            "zookeeper": [("Java 17", self.java), (str(_ZOOKEEPER), self.zookeeper)],
            "memcached": [("memcached", self.memcached)],
            "haproxy": [("haproxy", self.haproxy)],
        }
        return [name for name, where in parts[engine] if where is None]

    def packages(self) -> list[str]:
        """Debian's packages that would complete it."""
        wanted = {
            "openjdk-17-jre-headless": self.java,
            "maven": self.maven or self.jars,
            "zookeeper": self.zookeeper,
            "memcached": self.memcached,
            "haproxy": self.haproxy,
        }
        return [name for name, where in wanted.items() if where is None]


@dataclass(frozen=True, slots=True)
class Programs:
    """Where every part of every engine is."""

    java: Path
    jars: Path
    zookeeper: Path
    memcached: Path
    haproxy: Path


def look() -> Found:
    """What is on this machine; asks nothing but the file system."""
    return Found(
        java=_java(),
        maven=program("mvn"),
        jars=next((one / _JARS for one in _caches() if (one / _JARS).is_dir()), None),
        zookeeper=_ZOOKEEPER if _ZOOKEEPER.exists() else None,
        memcached=program("memcached"),
        haproxy=program("haproxy"),
    )


def missing(engines: Sequence[str] = ENGINES) -> dict[str, list[str]]:
    """Each engine that cannot be started here, and what it lacks."""
    found = look()
    return {one: lacks for one in engines if (lacks := found.missing(one))}


def programs() -> Programs:
    """All of them. Raises EngineError that names what is missing and the command that installs it."""
    found = look()
    if found.java and found.jars and found.zookeeper and found.memcached and found.haproxy:
        return Programs(found.java, found.jars, found.zookeeper, found.memcached, found.haproxy)
    lacking = dict.fromkeys(part for one in ENGINES for part in found.missing(one))
    raise EngineError(f"{', '.join(lacking)} missing on this machine; `{COMMAND}` installs it", 2)


def may_install() -> bool:
    """Whether packages may be installed without asking: as root, or in CI."""
    return os.geteuid() == 0 or os.environ.get("CI", "").lower() not in {"", "0", "false"}


def install(tell: Tell) -> None:
    """Install what is missing. Raises EngineError when something still is, with what was said about it."""
    if not missing():
        return
    with _locked(tell):
        packages = look().packages()
        if packages and may_install():
            _install_packages(packages, tell)
        found = look()
        if found.jars is None and found.maven and found.java:
            _install_jars(found.maven, tell)
    lacking = dict.fromkeys(part for parts in missing().values() for part in parts)
    if lacking:
        raise EngineError(f"{', '.join(lacking)} missing, and only root may install it: `{COMMAND}`")
    tell("done", "every engine is installed")


def install_package(name: str, lacks: Callable[[], bool], tell: Tell) -> None:
    """Install one of Debian's packages if it is lacking and may be installed. Raises EngineError if that fails."""
    if may_install() and lacks():
        with _locked(tell):
            if lacks():  # another process may have been at it
                _install_packages([name], tell)


def program(name: str) -> Path | None:
    """Where a program is, also one of those for administrators."""
    where = shutil.which(name, path=_SEARCHED)
    return Path(where) if where else None


def _java() -> Path | None:
    """A Java of a version that Cassandra runs on; by the file beside it that tells its version."""
    homes = [Path(os.environ["JAVA_HOME"])] if os.environ.get("JAVA_HOME") else []
    on_path = shutil.which("java", path=_SEARCHED)
    homes += [Path(on_path).resolve().parents[1]] if on_path else []
    homes += sorted(Path("/usr/lib/jvm").glob("*")) if Path("/usr/lib/jvm").is_dir() else []
    return next((home / "bin" / "java" for home in homes if _suits(home)), None)


def _suits(home: Path) -> bool:
    release = home / "release"
    if not release.exists() or not (home / "bin" / "java").exists():
        return False
    return re.search(rf'(?m)^JAVA_VERSION="{_JAVA}[."]', release.read_text()) is not None


def _caches() -> list[Path]:
    """Where jars may lie; the first is where ours go. Root installs for everyone."""
    told = os.environ.get("XDG_CACHE_HOME")
    own = Path(told or Path.home() / ".cache") / "regional-keystone"
    return [own, _SYSTEM_CACHE] if told or os.geteuid() else [_SYSTEM_CACHE, own]


@contextmanager
def _locked(tell: Tell) -> Iterator[None]:
    """One at a time on this machine, or in this cache. Raises EngineError."""
    cache = _caches()[0]
    cache.mkdir(parents=True, exist_ok=True)
    lock = os.open(cache, os.O_RDONLY | os.O_DIRECTORY)
    try:
        end, is_told = time.monotonic() + _LOCK_S, False
        while not _flocked(lock):
            if not is_told:
                tell("wait", "waiting until another process has installed the engines")
                is_told = True
            if time.monotonic() > end:
                raise EngineError(f"another process installs engines for longer than {_LOCK_S:.0f} s ({cache})")
            time.sleep(_LOOK_S)
        yield
    finally:
        os.close(lock)


def _flocked(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _packages_command() -> list[str]:
    prefix = [] if os.geteuid() == 0 else ["sudo", "-n"]
    return [*prefix, "env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-o", "DPkg::Lock::Timeout=300", "--yes"]


def _install_packages(packages: Sequence[str], tell: Tell) -> None:
    apt = _packages_command()
    what = f"{', '.join(packages)} by apt-get"
    _packages_step([*apt, "update"], f"the lists for {what}", tell)
    _packages_step([*apt, "install", "--no-install-recommends", *packages], what, tell)


def _packages_step(argv: list[str], what: str, tell: Tell) -> None:
    """In a session of its own: Ctrl-C must not reach a package manager in the middle of a package."""
    with tempfile.TemporaryFile("w+") as said:
        try:
            process = subprocess.Popen(  # noqa: S603
                argv, stdin=subprocess.DEVNULL, stdout=said, stderr=said, start_new_session=True
            )
        except OSError as error:
            raise EngineError(f"{what}: {argv[0]} cannot be started: {error.strerror}") from None
        try:
            is_done = _waited(lambda pause: _ends(process, pause), what, tell, _PACKAGES_S)
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait()
        if process.returncode or not is_done:
            said.seek(0)
            raise EngineError(f"{what} failed: {' '.join(said.read().split())[-600:]}")


def _ends(process: subprocess.Popen[bytes], pause_s: float) -> bool:
    try:
        process.wait(pause_s)
    except subprocess.TimeoutExpired:
        return False
    return True


def _install_jars(maven: Path, tell: Tell) -> None:
    """Whole or not at all: they are gathered beside their place, and moved there."""
    cache = _caches()[0]
    for rest in cache.glob(".partial-*"):
        shutil.rmtree(rest, ignore_errors=True)  # we hold the lock: nobody works on it
    partial = Path(tempfile.mkdtemp(prefix=".partial-", dir=cache))
    try:
        with Keeper() as keeper:
            (keeper.directory / "pom.xml").write_text(_POM)
            goal = ["dependency:copy-dependencies", "-DincludeScope=runtime", f"-DoutputDirectory={partial}"]
            process = keeper.start([str(maven), "-B", "--strict-checksums", *goal], keeper.directory)
            what = f"Cassandra {CASSANDRA} by Maven"
            if not _waited(process.wait, what, tell, _JARS_S) or process.code:
                said = (keeper.directory / "output.log").read_text(errors="replace")
                errors = " ".join(re.findall(r"(?m)^\[ERROR\] (.*)$", said)) or said
                raise EngineError(f"{what} failed: {' '.join(errors.split())[:600]}")
        partial.chmod(0o755)
        partial.rename(cache / _JARS)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _waited(ends: Callable[[float], bool], what: str, tell: Tell, limit_s: float) -> bool:
    """Whether something ends within its time; tells every few seconds that it goes on."""
    began, told = time.monotonic(), -_TOLD_EACH_S
    while not ends(_LOOK_S):
        passed = time.monotonic() - began
        if passed - told >= _TOLD_EACH_S:
            told = passed
            tell("wait", f"waiting for {what} ({passed:.0f} s)")
        if passed > limit_s:
            return False
    tell("done", what)
    return True

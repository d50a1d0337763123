"""What every test gets: directories of its own, and no way to be skipped without a reason."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.images.registry import Registry
    from tests.sshd import Sshd

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell has put us in the background, and programs that tests start would ignore Ctrl-C, too.
    signal.signal(signal.SIGINT, signal.default_int_handler)

settings.register_profile("devloop", deadline=None)  # the machine's other work is no failure
settings.register_profile("soak", deadline=None, max_examples=2000)
settings.load_profile("soak" if os.environ.get("DEVLOOP_SOAK") == "1" else "devloop")


def _lacks(command: str) -> Callable[[], bool]:
    return lambda: shutil.which(command) is None


def _fails(*argv: str) -> Callable[[], bool]:
    return lambda: subprocess.run(argv, capture_output=True, check=False).returncode != 0


# A reason to skip, by how it starts, and whether this machine really lacks what it names.
MISSING: dict[str, Callable[[], bool]] = {
    "needs an NVIDIA GPU": _fails("sh", "-c", "nvidia-smi -L | grep -q GPU"),
    "needs root": lambda: os.geteuid() != 0,
    "needs Linux": lambda: sys.platform != "linux",
    "needs FUSE": lambda: not Path("/dev/fuse").exists(),
    "needs EROFS": _fails("grep", "-qw", "erofs", "/proc/filesystems"),
    "needs libseccomp": _fails(
        sys.executable, "-c", "import ctypes; ctypes.CDLL('libseccomp.so.2')"
    ),
    "needs python3 in /usr/bin": lambda: not Path("/usr/bin/python3").exists(),
    "needs the memory controller of cgroup v1": lambda: (
        not Path("/sys/fs/cgroup/memory/tasks").exists()
    ),
    "needs overlayfs": _fails("grep", "-qw", "overlay", "/proc/filesystems"),
    "needs a pid namespace": _fails("unshare", "--pid", "--fork", "true"),
    "needs tmpfs": _fails("unshare", "--mount", "mount", "-t", "tmpfs", "none", "/mnt"),
    "needs sshd": lambda: shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin") is None,
    "needs torch": lambda: find_spec("torch") is None,
    "needs numpy": lambda: find_spec("numpy") is None,
    "needs a user namespace": _fails("unshare", "--user", "--map-root-user", "true"),
    "needs a C compiler": _lacks("cc"),
    "needs newuidmap": _lacks("newuidmap"),
    **{f"needs {name}": _lacks(name) for name in ("entr", "fish", "git", "rsync", "tmux", "zsh")},
    **{
        f"needs {name}": _lacks(name)
        for name in ("crun", "docker-registry", "mmdebstrap", "runc", "skopeo", "umoci")
    },
}


@pytest.fixture(autouse=True)
def own_directories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """devloop's state, sockets and cache are the test's own, also in the processes it starts."""
    for name in [name for name in os.environ if name.startswith("DEVLOOP_")]:
        if name != "DEVLOOP_SOAK":
            monkeypatch.delenv(name)
    for name in ("STATE", "CACHE"):
        monkeypatch.setenv(f"DEVLOOP_{name}_DIR", str(tmp_path / f".devloop-{name.lower()}"))
    for name in ("CONFIG", "CACHE", "DATA", "STATE"):
        monkeypatch.setenv(f"XDG_{name}_HOME", str(tmp_path / ".xdg" / name.lower()))
    # A socket's path holds about 100 bytes: pytest's own directories are too long for it.
    runtime_dir = tempfile.mkdtemp(prefix="dl-")
    monkeypatch.setenv("DEVLOOP_RUNTIME_DIR", runtime_dir)
    monkeypatch.setenv("XDG_RUNTIME_DIR", runtime_dir)
    yield
    shutil.rmtree(runtime_dir, ignore_errors=True)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty project, which is also the current directory."""
    directory = (tmp_path / "project").resolve()
    directory.mkdir()
    monkeypatch.chdir(directory)
    return directory


@pytest.fixture
def sshd(tmp_path: Path) -> Iterator[Sshd]:
    """A real OpenSSH server of the test's own, which lets the user of the tests in."""
    from tests.sshd import find_sshd, start_sshd  # most tests need none

    if find_sshd() is None:
        pytest.skip("needs sshd")
    with start_sshd(tmp_path / "sshd") as started:
        yield started


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    """A real, empty registry of the test's own: plain HTTP, no login."""
    from tests.images.registry import missing_program, start_registry

    if (missing := missing_program()) is not None:
        pytest.skip(f"needs {missing}")
    with start_registry(tmp_path / "registry") as started:
        yield started


def pytest_sessionfinish(session: pytest.Session) -> None:
    """In CI a test that this machine could have run must not have been skipped."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None or not os.environ.get("CI"):
        return
    for report in reporter.stats.get("skipped", []):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        reason = reason.removeprefix("Skipped: ")
        if not any(reason.startswith(start) and lacks() for start, lacks in MISSING.items()):
            reporter.write_line(f"FAILED {report.nodeid}: skipped here, though: {reason}", red=True)
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

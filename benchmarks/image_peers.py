"""What images are compared with: the same image copied by skopeo, unpacked by umoci, run by crun.

Owns a registry that serves it, and the folders of the copies. Everything ends with the sandbox.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from .sandbox import Skipped, timed
from .sshd import accepts, free_port, wait_until

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .base_images import BaseImage
    from .sandbox import Sandbox

__all__ = ["Bundle", "Registry", "drop_page_cache", "du_bytes", "start_registry", "unpack"]

NAME = "team/train:1"
_NEEDED = ("crun", "docker-registry", "skopeo", "umoci")


@dataclass(frozen=True, slots=True)
class Registry:
    port: int

    @property
    def reference(self) -> str:
        return f"127.0.0.1:{self.port}/{NAME}"


@dataclass(frozen=True, slots=True)
class Bundle:
    """An unpacked image with a configuration that crun runs."""

    folder: Path

    @property
    def root(self) -> Path:
        return self.folder / "rootfs"

    def chroot(self, *argv: str) -> list[str]:
        """A command in it, with /proc and /dev: the plain directory, and no container."""
        root = shlex.quote(str(self.root))
        script = f"mount --bind /dev {root}/dev && mount -t proc proc {root}/proc && exec chroot"
        return ["unshare", "--mount", "sh", "-c", f"{script} {root} {shlex.join(argv)}"]

    def crun(self, name: str, *argv: str) -> list[str]:
        config = json.loads((self.folder / "config.json").read_text())
        config["process"] |= {"args": list(argv), "terminal": False}
        config["linux"].pop("resources", None)
        kinds = {"network", "cgroup", "user"}
        config["linux"]["namespaces"] = [
            each for each in config["linux"]["namespaces"] if each["type"] not in kinds
        ]
        (self.folder / "config.json").write_text(json.dumps(config))
        words = ["crun", "--cgroup-manager=disabled", "run", "--bundle", str(self.folder), name]
        # crun refuses a box with cgroups of both versions, unless it does not see that.
        script = 'mount -t cgroup2 none /sys/fs/cgroup && exec "$@"'
        return ["unshare", "--mount", "sh", "-c", script, "sh", *words]


def start_registry(sandbox: Sandbox, image: BaseImage) -> Registry:
    """With the image in it. Raises Skipped."""
    for program in _NEEDED:
        if shutil.which(program) is None:
            raise Skipped(f"there is no {program}: scripts/bootstrap installs it")
    if os.geteuid() != 0:
        raise Skipped("containers are root's")
    folder, port = sandbox.directory("registry"), free_port()
    config = {
        "version": 0.1,
        "log": {"level": "error"},
        "storage": {"filesystem": {"rootdirectory": str(folder / "data")}},
        "http": {"addr": f"127.0.0.1:{port}"},
    }
    (folder / "config.yml").write_text(json.dumps(config))
    sandbox.start(["docker-registry", "serve", str(folder / "config.yml")], cwd=folder)
    wait_until(lambda: accepts(port), "the registry does not start")
    registry = Registry(port)
    _skopeo(sandbox, image.reference, f"docker://{registry.reference}", "--dest-tls-verify=false")
    return registry


def unpack(sandbox: Sandbox, reference: str, name: str) -> tuple[Bundle, Path]:
    """`skopeo copy` from a registry and `umoci unpack`. The bundle, and the copied layout."""
    layout, bundle = sandbox.root / f"layout-{name}", sandbox.root / f"bundle-{name}"
    _skopeo(sandbox, f"docker://{reference}", f"oci:{layout}:x", "--src-tls-verify=false")
    timed(
        ["umoci", "unpack", "--image", f"{layout}:x", str(bundle)],
        cwd=sandbox.root,
        env=sandbox.env,
    )
    return Bundle(bundle), layout


def _skopeo(sandbox: Sandbox, source: str, target: str, *options: str) -> None:
    timed(
        ["skopeo", "copy", "--quiet", *options, source, target], cwd=sandbox.root, env=sandbox.env
    )


def drop_page_cache() -> None:
    """Also names and attributes: what comes next is read from the disk."""
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text("3")


def du_bytes(folders: Sequence[Path]) -> int:
    words = ["du", "-s", "--block-size=1", *map(str, folders)]
    lines = subprocess.run(words, capture_output=True, text=True, check=True).stdout.splitlines()
    return sum(int(line.split()[0]) for line in lines)

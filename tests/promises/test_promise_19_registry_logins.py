"""Promise 19: a login to a registry is found nowhere that devloop writes, right or wrong."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING

import psutil
import pytest
from tests.e2e.box import open_box
from tests.images.layout import Image, layer, write_layout
from tests.images.meddler import meddle
from tests.images.registry import Login, missing_program, start_registry

if TYPE_CHECKING:
    from pathlib import Path

    from tests.e2e.box import Box

pytestmark = pytest.mark.promise(19)

# Whole only in what devloop is given: this file's own text must not match.
PASSWORD = "canary" + "-registry-password"
WRONG = "canary" + "-wrong-password"


def encoded(password: str) -> str:
    return base64.b64encode(f"ada:{password}".encode()).decode()


def canaries() -> list[str]:
    return [PASSWORD, WRONG, encoded(PASSWORD), encoded(WRONG), "token-1"]


def log_in(config: Path, host: str, password: str) -> None:
    config.mkdir(exist_ok=True)
    auths = {host: {"auth": encoded(password)}}
    (config / "config.json").write_text(json.dumps({"auths": auths}))


def assert_nowhere(box: Box, *said: str) -> int:
    files = [
        path
        for folder in (box.state_dir, box.cache_dir, box.runtime_dir)
        for path in folder.rglob("*")
        if path.is_file()
    ]
    lines = [" ".join(one.info["cmdline"] or []) for one in psutil.process_iter(["cmdline"])]
    for canary in canaries():
        assert all(canary not in text for text in (*said, *lines))
        assert all(canary.encode() not in path.read_bytes() for path in files)
    return len(files)


def test_a_password_is_found_nowhere(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if missing := missing_program():
        pytest.skip(f"needs {missing}")
    write_layout(tmp_path / "layout", [Image([layer({"etc/hosts": b"x"})])])
    login, config = Login("ada", PASSWORD), tmp_path / "docker"
    with (
        start_registry(tmp_path / "registry", login=login) as registry,
        open_box(DOCKER_CONFIG=str(config)) as box,
    ):
        registry.push(f"oci:{tmp_path / 'layout'}:latest", "team/train:1")
        name, project = registry.name("team/train:1"), box.project()
        log_in(config, registry.host, WRONG)
        refused = box.run(project, "image", "pull", name)
        refused.assert_error("refuses the password of ada")
        log_in(config, registry.host, PASSWORD)
        pulled = box.run(project, "image", "pull", name)
        assert pulled.code == 0, pulled
        said = [one.stderr + one.text for one in (refused, pulled, box.run(project, "doctor"))]
        files = assert_nowhere(box, *said)
    with capsys.disabled():
        print(f"\npromise 19: {len(canaries())} canaries of a login, {files} files searched")


def test_a_token_is_found_nowhere(tmp_path: Path) -> None:
    if missing := missing_program():
        pytest.skip(f"needs {missing}")
    write_layout(tmp_path / "layout", [Image([layer({"etc/hosts": b"x"})])])
    config = tmp_path / "docker"
    with (
        start_registry(tmp_path / "registry") as registry,
        meddle(registry) as meddler,
        open_box(DOCKER_CONFIG=str(config)) as box,
    ):
        registry.push(f"oci:{tmp_path / 'layout'}:latest", "team/train:1")
        meddler.tokens, meddler.login = 100, encoded(PASSWORD)
        log_in(config, meddler.host, PASSWORD)
        name, project = meddler.name("team/train:1"), box.project()
        pulled = box.run(project, "image", "pull", name)
        assert pulled.code == 0, pulled
        meddler.tokens = 0  # none is good any more
        refused = box.run(project, "image", "pull", name)
        assert refused.code == 255, refused
        assert_nowhere(box, pulled.stderr + pulled.text, refused.stderr + refused.text)

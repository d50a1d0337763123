"""Images in OCI layouts and in what `docker save` writes."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

import pytest
from tests.images.layout import Image, layer, write_layout

from devloop.cafs.oci.source import open_image

if TYPE_CHECKING:
    from pathlib import Path

BASE = layer({"etc/hosts": b"127.0.0.1 localhost\n"})
TOP = layer({"app/main.py": b"print('hello')\n" * 10_000})
AMD64 = "linux/amd64"


def digest_of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


@pytest.fixture
def layout(tmp_path: Path) -> Path:
    return tmp_path / "layout"


@pytest.mark.parametrize("docker", [False, True])
@pytest.mark.parametrize("compress", ["gzip", "zstd", "plain"])
def test_a_layout_gives_its_layers_as_they_are_kept(
    layout: Path, compress: str, docker: bool
) -> None:
    image = Image([BASE, TOP], compress=compress, docker=docker, config={"Env": ["A=1"]})
    (digest,) = write_layout(layout, [image])
    source = open_image(f"oci:{layout}", platform=AMD64)
    assert source.manifest_digest == digest == digest_of(source.manifest)
    assert json.loads(source.config)["config"] == {"Env": ["A=1"]}
    assert [one.diff_id for one in source.layers] == [digest_of(BASE), digest_of(TOP)]
    for one in source.layers:
        with one.open() as stream:
            data = stream.read()
        assert digest_of(data) == one.descriptor.digest
        assert len(data) == one.descriptor.size_bytes
        assert one.descriptor.media_type.endswith("tar" if compress == "plain" else compress)
    source.close()

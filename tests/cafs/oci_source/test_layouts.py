"""Images in OCI layouts and in what `docker save` writes."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

import pytest
from tests.images.layout import Image, layer, write_layout
from tests.images.registry import missing_program, skopeo

from devloop.cafs.oci.source import normalised, open_image
from devloop.cafs.oci.source_errors import PlatformMissing, ReferenceInvalid, SourceError

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


@pytest.mark.parametrize("kind", ["docker-archive", "oci-archive", "oci"])
def test_what_skopeo_writes_is_read(layout: Path, kind: str) -> None:
    if missing := missing_program():
        pytest.skip(f"needs {missing}")
    write_layout(layout, [Image([BASE, TOP], config={"Env": ["A=1"]})])
    copy = layout.with_name("copy")
    name = "team/train:1" if kind == "docker-archive" else "1"
    skopeo("copy", f"oci:{layout}:latest", f"{kind}:{copy}:{name}")
    for reference in (f"{kind}:{copy}", f"{kind}:{copy}:{name}"):
        source = open_image(reference, platform=AMD64)
        assert [one.diff_id for one in source.layers] == [digest_of(BASE), digest_of(TOP)]
        assert json.loads(source.config)["config"]["Env"] == ["A=1"]
        for one in source.layers:
            with one.open() as stream:
                assert digest_of(stream.read()) == one.descriptor.digest
        source.close()


@pytest.mark.parametrize("kind", ["docker-archive", "oci-archive", "oci"])
def test_what_is_not_there_and_what_is_no_image_is_refused(layout: Path, kind: str) -> None:
    with pytest.raises(SourceError, match=str(layout)):
        open_image(f"{kind}:{layout}", platform=AMD64)
    layout.write_text("no image")
    with pytest.raises(SourceError, match=str(layout)):
        open_image(f"{kind}:{layout}", platform=AMD64)


def test_an_unknown_tag_of_a_layout_is_refused(layout: Path) -> None:
    write_layout(layout, [Image([BASE], tag="1")])
    with pytest.raises(SourceError, match="2"):
        open_image(f"oci:{layout}:2", platform=AMD64)


def test_an_image_for_other_machines_only_is_refused_by_name(layout: Path) -> None:
    write_layout(layout, [Image([BASE], platform="linux/s390x")])
    with pytest.raises(PlatformMissing, match="s390x"):
        open_image(f"oci:{layout}", platform=AMD64)


@pytest.mark.parametrize("name", ["a\x1b[31m/b", "oci:./a\rb"])
def test_a_name_with_control_characters_is_refused_for_them(name: str) -> None:
    with pytest.raises(ReferenceInvalid, match="no control characters"):
        normalised(name)

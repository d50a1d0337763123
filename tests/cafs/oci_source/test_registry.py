"""Images in a registry: a real one, and one whose answers are spoiled on the way."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import stat
import time
from typing import TYPE_CHECKING

import pytest
from tests.images.layout import Image, layer, write_layout
from tests.images.meddler import Ask, Meddler, Spoiled, meddle
from tests.images.registry import Authority, Login, missing_program, start_registry

from devloop.cafs.images import ImageStore
from devloop.cafs.oci.credentials import Credentials
from devloop.cafs.oci.ingest import ingest
from devloop.cafs.oci.source import RegistryOptions, open_image
from devloop.cafs.oci.source_errors import (
    AccessRefused,
    ImageCorrupt,
    ImageUnknown,
    LayerCorrupt,
    RegistryBusy,
    RegistryFailed,
    RegistryUnreachable,
)
from devloop.cafs.wholefiles import WholeFiles

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.images.registry import Registry

    from devloop.cafs.oci.source import ImageSource

AMD64 = "linux/amd64"
NOISE = hashlib.shake_256(b"noise").digest(3_000_000)
LAYERS = [layer({"etc/hosts": b"127.0.0.1 localhost\n"}), layer({"data/noise": NOISE})]
PATIENT = RegistryOptions(patience_s=20.0)
HASTY = RegistryOptions(patience_s=0.5)
LOGIN = Login("ada", "s3cret:with/odd chars")


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """With team/train:1, of two layers; nobody changes it."""
    if missing := missing_program():
        pytest.skip(f"needs {missing}")
    folder = tmp_path_factory.mktemp("registry")
    with start_registry(folder / "r") as registry:
        push(registry, folder / "layout")
        yield registry


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    if missing := missing_program():
        pytest.skip(f"needs {missing}")
    folder = tmp_path_factory.mktemp("locked")
    with start_registry(folder / "r", login=LOGIN) as registry:
        push(registry, folder / "layout")
        yield registry


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    if missing := missing_program():
        pytest.skip(f"needs {missing}")
    folder = tmp_path_factory.mktemp("secure")
    with start_registry(folder / "r", authority=Authority(folder / "ca")) as registry:
        push(registry, folder / "layout")
        yield registry


@pytest.fixture
def meddler(shared: Registry) -> Iterator[Meddler]:
    with meddle(shared) as meddler:
        yield meddler


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of a user who has never logged in anywhere."""
    for name in ("REGISTRY_AUTH_FILE", "XDG_RUNTIME_DIR", "XDG_CONFIG_HOME", "DOCKER_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    home = tmp_path / "home"
    (home / ".docker").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(home))
    return home


def push(registry: Registry, layout: Path) -> str:
    """Returns the manifest's digest."""
    (digest,) = write_layout(layout, [Image(LAYERS)])
    registry.push(f"oci:{layout}:latest", "team/train:1", "--preserve-digests")
    return digest


def opened(name: str, options: RegistryOptions = PATIENT) -> contextlib.closing[ImageSource]:
    return contextlib.closing(open_image(name, platform=AMD64, options=options))


def read_all(source: ImageSource) -> list[bytes]:
    found = []
    for one in source.layers:
        with one.open() as stream:
            found.append(stream.read())
    return found


def diff_ids() -> list[str]:
    return [f"sha256:{hashlib.sha256(one).hexdigest()}" for one in LAYERS]


def is_large_blob(ask: Ask, name: str) -> bool:
    return ask.path.endswith(name)


class TestNames:
    def test_a_tag_and_a_digest_name_the_same_image(self, shared: Registry) -> None:
        with opened(shared.name("team/train:1")) as by_tag:
            digest = by_tag.manifest_digest
            assert [one.diff_id for one in by_tag.layers] == diff_ids()
            for one, data in zip(by_tag.layers, read_all(by_tag), strict=True):
                assert f"sha256:{hashlib.sha256(data).hexdigest()}" == one.descriptor.digest
        with opened(shared.name(f"team/train@{digest}")) as by_digest:
            assert by_digest.manifest_digest == digest

    def test_an_unknown_tag_is_refused_with_the_tags_that_there_are(self, shared: Registry) -> None:
        with pytest.raises(ImageUnknown, match="has no image team/train:2") as caught:
            open_image(shared.name("team/train:2"), options=HASTY)
        assert caught.value.hint == "it has 1"

    @pytest.mark.parametrize("name", ["team/other:1", f"team/train@sha256:{'0' * 64}"])
    def test_an_unknown_image_is_refused(self, shared: Registry, name: str) -> None:
        with pytest.raises(ImageUnknown, match="has no image"):
            open_image(shared.name(name), options=HASTY)

    def test_what_is_no_registry_is_told_apart(self, meddler: Meddler) -> None:
        meddler.rules.append(lambda _: Spoiled(status=404))
        with pytest.raises(RegistryUnreachable, match="though not as a registry"):
            open_image(meddler.name("team/train:1"), options=HASTY)


class TestLogins:
    def test_a_password_given_is_shown(self, locked: Registry) -> None:
        options = PATIENT._replace(credentials=Credentials(*LOGIN))
        with opened(locked.name("team/train:1"), options) as source:
            assert len(read_all(source)) == 2

    def test_no_password_is_one_clear_error(self, locked: Registry, home: Path) -> None:
        with pytest.raises(AccessRefused, match="wants a login for team/train") as caught:
            open_image(locked.name("team/train:1"), options=HASTY)
        assert f"docker login {locked.host}" in (caught.value.hint or "")

    def test_a_wrong_password_is_named_with_its_user(self, locked: Registry) -> None:
        wrong = HASTY._replace(credentials=Credentials("ada", "wrong"))
        with pytest.raises(AccessRefused, match="refuses the password of ada") as caught:
            open_image(locked.name("team/train:1"), options=wrong)
        assert "wrong" not in str(caught.value)

    def test_docker_s_own_file_is_read(self, locked: Registry, home: Path) -> None:
        auth = base64.b64encode(f"{LOGIN.user}:{LOGIN.password}".encode()).decode()
        config = {"auths": {locked.host: {"auth": auth}}}
        (home / ".docker/config.json").write_text(json.dumps(config))
        with opened(locked.name("team/train:1")) as source:
            assert len(source.layers) == 2

    @pytest.mark.parametrize("key", ["credHelpers", "credsStore"])
    def test_a_credential_helper_is_asked(
        self, locked: Registry, home: Path, monkeypatch: pytest.MonkeyPatch, key: str
    ) -> None:
        helper = home / "bin" / "docker-credential-vault"
        helper.parent.mkdir()
        said = json.dumps({"Username": LOGIN.user, "Secret": LOGIN.password})
        helper.write_text(f"#!/bin/sh\n[ \"$(cat)\" = {locked.host} ] && echo '{said}'\n")
        helper.chmod(helper.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv("PATH", f"{helper.parent}:{os.environ['PATH']}")
        value: object = {locked.host: "vault"} if key == "credHelpers" else "vault"
        (home / ".docker/config.json").write_text(json.dumps({key: value}))
        with opened(locked.name("team/train:1")) as source:
            assert len(source.layers) == 2

    def test_a_helper_that_is_not_there_is_told_when_it_was_needed(
        self, locked: Registry, home: Path
    ) -> None:
        (home / ".docker/config.json").write_text('{"credsStore": "nowhere"}')
        with pytest.raises(AccessRefused) as caught:
            open_image(locked.name("team/train:1"), options=HASTY)
        assert "docker-credential-nowhere is not installed" in (caught.value.hint or "")


class TestTokens:
    def test_a_token_that_anybody_may_have_is_fetched(self, meddler: Meddler, home: Path) -> None:
        meddler.tokens = 100
        with opened(meddler.name("team/train:1")) as source:
            assert len(read_all(source)) == 2
        assert {one["scope"][0] for one in meddler.issued} == {"repository:team/train:pull"}

    def test_a_token_that_runs_out_in_mid_pull_is_renewed(
        self, meddler: Meddler, home: Path
    ) -> None:
        meddler.tokens = 1
        with opened(meddler.name("team/train:1")) as source:
            assert len(read_all(source)) == 2
        assert len(meddler.issued) >= 4  # manifest, config, two layers

    def test_the_token_server_is_shown_the_password(self, meddler: Meddler) -> None:
        meddler.tokens = 100
        meddler.login = base64.b64encode(f"{LOGIN.user}:{LOGIN.password}".encode()).decode()
        right = PATIENT._replace(credentials=Credentials(*LOGIN))
        with opened(meddler.name("team/train:1"), right) as source:
            assert len(source.layers) == 2
        wrong = HASTY._replace(credentials=Credentials("ada", "wrong"))
        with pytest.raises(AccessRefused, match="refuses the password of ada"):
            open_image(meddler.name("team/train:1"), options=wrong)


class TestTrouble:
    def large(self, name: str) -> str:
        with opened(name) as source:
            return source.layers[1].descriptor.digest

    def test_a_lost_connection_is_resumed_where_it_was_lost(
        self, shared: Registry, meddler: Meddler
    ) -> None:
        digest = self.large(shared.name("team/train:1"))
        cuts = {0: 1_000_000, 1: 500_000, 2: 100_000}

        def cut(ask: Ask) -> Spoiled | None:
            is_it = is_large_blob(ask, digest) and ask.number in cuts
            return Spoiled(cut_at=cuts[ask.number]) if is_it else None

        meddler.rules.append(cut)
        with opened(meddler.name("team/train:1")) as source:
            large = read_all(source)[1]
            assert f"sha256:{hashlib.sha256(large).hexdigest()}" == digest
        ranges = [ask.headers.get("range") for ask in meddler.asked if ask.path.endswith(digest)]
        assert ranges == [None, "bytes=1000000-", "bytes=1500000-", "bytes=1600000-"]

    @pytest.mark.parametrize("status", [429, 503])
    def test_a_registry_that_says_later_is_waited_for(self, meddler: Meddler, status: int) -> None:
        later = Spoiled(status=status, headers={"Retry-After": "1"})
        began = time.monotonic()
        meddler.rules.append(lambda ask: later if ask.is_manifest and ask.number == 0 else None)
        with opened(meddler.name("team/train:1")) as source:
            assert len(source.layers) == 2
        assert time.monotonic() - began >= 1

    def test_one_that_says_later_for_too_long_is_one_clear_error(self, meddler: Meddler) -> None:
        meddler.rules.append(lambda _: Spoiled(status=429, headers={"Retry-After": "3600"}))
        with pytest.raises(RegistryBusy, match="takes no more requests"):
            open_image(meddler.name("team/train:1"), options=PATIENT)

    def test_a_layer_that_always_ends_early_is_given_up(
        self, shared: Registry, meddler: Meddler
    ) -> None:
        digest = self.large(shared.name("team/train:1"))
        meddler.rules.append(lambda ask: Spoiled(cut_at=0) if is_large_blob(ask, digest) else None)
        with (
            opened(meddler.name("team/train:1"), HASTY) as source,
            pytest.raises(RegistryUnreachable, match=r"after 0 of 3,\d+,\d+ bytes"),
        ):
            read_all(source)

    def test_a_flipped_byte_is_found(
        self, shared: Registry, meddler: Meddler, tmp_path: Path
    ) -> None:
        digest = self.large(shared.name("team/train:1"))
        meddler.rules.append(
            lambda ask: Spoiled(flip_at=2_000_000) if is_large_blob(ask, digest) else None
        )
        with (
            contextlib.closing(WholeFiles(tmp_path / "images")) as blobs,
            opened(meddler.name("team/train:1"), HASTY) as source,
            pytest.raises(LayerCorrupt, match=digest[7:19]),
        ):
            ingest(source, blobs)

    def test_a_layer_that_is_short_in_the_registry_itself_is_named(
        self, registry: Registry, tmp_path: Path
    ) -> None:
        push(registry, tmp_path / "layout")
        digest = self.large(registry.name("team/train:1"))
        stored = registry.stored_blob(digest)
        stored.write_bytes(stored.read_bytes()[:1_000_000])
        with (
            contextlib.closing(WholeFiles(tmp_path / "images")) as blobs,
            opened(registry.name("team/train:1"), HASTY) as source,
            pytest.raises(LayerCorrupt, match=digest[7:19]),
        ):
            ingest(source, blobs)

    def test_a_registry_that_is_gone_in_mid_pull_is_one_error_within_its_patience(
        self, registry: Registry, tmp_path: Path
    ) -> None:
        push(registry, tmp_path / "layout")
        with opened(registry.name("team/train:1"), HASTY) as source:
            registry.kill()
            began = time.monotonic()
            with pytest.raises(RegistryUnreachable, match="cannot be reached"):
                read_all(source)
            assert time.monotonic() - began < 5

    def test_one_that_is_gone_in_mid_layer_costs_nothing_of_what_was_here(
        self, registry: Registry, tmp_path: Path
    ) -> None:
        push(registry, tmp_path / "layout")
        digest = self.large(registry.name("team/train:1"))
        write_layout(tmp_path / "base", [Image(LAYERS[:1])])
        registry.push(f"oci:{tmp_path / 'base'}:latest", "team/base:1")

        def end(ask: Ask) -> Spoiled | None:
            if is_large_blob(ask, digest) and ask.number:
                registry.kill()
            return Spoiled(cut_at=1_000_000) if is_large_blob(ask, digest) else None

        with meddle(registry) as meddler, ImageStore(tmp_path / "images") as store:
            with opened(meddler.name("team/base:1")) as source:
                before = store.add(ingest(source, store.blobs, store))
            meddler.rules.append(end)
            with (
                opened(meddler.name("team/train:1"), HASTY) as source,
                pytest.raises(RegistryUnreachable, match=r"after 1,000,000 of 3,\d+,\d+ bytes"),
            ):
                ingest(source, store.blobs, store)
            assert list(store.verify()) == []
            assert not store.missing(store.index(before))

    def test_a_failing_registry_is_not_asked_forever(self, meddler: Meddler) -> None:
        meddler.rules.append(lambda _: Spoiled(status=500))
        with pytest.raises(RegistryFailed, match="answers 500"):
            open_image(meddler.name("team/train:1"), options=HASTY)


class TestMirrors:
    def options(self, shared: Registry, *mirrors: str) -> RegistryOptions:
        return HASTY._replace(mirrors={shared.host: mirrors})

    def test_a_mirror_is_asked_first(self, shared: Registry, meddler: Meddler) -> None:
        name = shared.name("team/train:1")
        with opened(name, self.options(shared, meddler.host)) as source:
            assert len(read_all(source)) == 2
        assert sum(ask.is_blob for ask in meddler.asked) == 3

    def test_a_mirror_that_is_down_or_fails_costs_nothing_but_time(
        self, shared: Registry, meddler: Meddler
    ) -> None:
        meddler.rules.append(lambda ask: Spoiled(status=500) if ask.is_blob else None)
        name = shared.name("team/train:1")
        with opened(name, self.options(shared, "127.0.0.1:1", meddler.host)) as source:
            assert len(read_all(source)) == 2

    def test_bytes_that_a_mirror_made_up_are_refused(
        self, shared: Registry, meddler: Meddler, tmp_path: Path
    ) -> None:
        meddler.rules.append(lambda ask: Spoiled(flip_at=200) if ask.is_blob else None)
        with pytest.raises(ImageCorrupt, match=r"config of .* hashes to"):
            open_image(shared.name("team/train:1"), options=self.options(shared, meddler.host))


class TestSharedLayers:
    def test_of_a_second_image_on_the_same_base_only_what_differs_is_fetched_and_stored(
        self, registry: Registry, tmp_path: Path
    ) -> None:
        other = layer({"data/other": hashlib.shake_256(b"other").digest(400_000)})
        push(registry, tmp_path / "one")
        write_layout(tmp_path / "two", [Image([*LAYERS, other])])
        registry.push(f"oci:{tmp_path / 'two'}:latest", "team/train:2", "--preserve-digests")
        with meddle(registry) as meddler, ImageStore(tmp_path / "images") as store:
            with opened(meddler.name("team/train:1")) as source:
                ingest(source, store.blobs, store)
            sent_bytes, stored_bytes = meddler.sent_bytes, store.disk_bytes()
            with opened(meddler.name("team/train:2")) as source:
                ingest(source, store.blobs, store)
                size_bytes = source.layers[2].descriptor.size_bytes
            assert size_bytes < meddler.sent_bytes - sent_bytes < size_bytes * 1.02
            assert store.disk_bytes() - stored_bytes == 400_000


class TestTls:
    def test_an_unknown_authority_is_refused_with_what_to_do(self, secure: Registry) -> None:
        with pytest.raises(RegistryUnreachable, match="is not to be trusted") as caught:
            open_image(secure.name("team/train:1"), options=HASTY)
        assert f"certs.d/{secure.host}" in (caught.value.hint or "")

    def test_docker_s_folder_of_authorities_is_read(self, secure: Registry, tmp_path: Path) -> None:
        assert secure.authority is not None
        folder = tmp_path / "certs.d" / secure.host
        folder.mkdir(parents=True)
        (folder / "ca.crt").write_bytes(secure.authority.ca.read_bytes())
        options = PATIENT._replace(certs_dirs=[tmp_path / "certs.d"])
        with opened(secure.name("team/train:1"), options) as source:
            assert len(read_all(source)) == 2

    def test_who_is_named_insecure_is_believed(self, secure: Registry) -> None:
        with opened(secure.name("team/train:1"), HASTY._replace(insecure=[secure.host])) as source:
            assert len(source.layers) == 2

    def test_plain_http_elsewhere_is_refused(
        self, shared: Registry, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """`box.test` stands for a host that is not this machine."""
        import socket

        real = socket.getaddrinfo

        def resolve(host: str, *rest: object, **named: object) -> object:
            return real("127.0.0.1" if host == "box.test" else host, *rest, **named)  # type: ignore[arg-type]

        monkeypatch.setattr(socket, "getaddrinfo", resolve)
        name = f"box.test:{shared.port}/team/train:1"
        with pytest.raises(RegistryUnreachable, match="does not speak TLS"):
            open_image(name, options=HASTY)
        with opened(name, HASTY._replace(insecure=[f"box.test:{shared.port}"])) as source:
            assert len(source.layers) == 2

"""The store under every order of puts, loans, losses of power, flipped bits and collections."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from random import Random

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from devloop.cafs.digest import Digest, digest_of
from devloop.cafs.errors import BlobCorrupt, BlobMismatch, BlobMissing
from devloop.cafs.gc import collect
from devloop.cafs.packfile import RECORD_BYTES
from devloop.cafs.store import DiskStore

from .faults import LosesUnsynced, flip_byte, flip_byte_at, is_pack

CONTENTS = [b"", b"a", b"small" * 9000, bytes(range(256)) * 1200]
DIGESTS = [digest_of(data) for data in CONTENTS]
EXAMPLES = 1000 if os.environ.get("DEVLOOP_SOAK") == "1" else 40
numbers = st.integers(0, len(CONTENTS) - 1)


class StoreMachine(RuleBasedStateMachine):
    """`durable` holds what must be served; `damaged` what may be refused, never served wrong."""

    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp(prefix="dl-machine-"))
        self.files = Path(tempfile.mkdtemp(prefix="dl-machine-files-"))  # of a workspace
        self.store = LosesUnsynced(DiskStore(self.root))
        self.stored: set[Digest] = set()
        self.damaged: set[Digest] = set()
        # What a workspace has that the store lent it: the time, and what runs wrote since.
        self.lent: dict[Path, tuple[int, bytes]] = {}

    def teardown(self) -> None:
        assert {digest for digest in DIGESTS if self.store.has(digest)} == set(self.store)
        assert not list(self.root.glob("*/**/.tmp-*"))
        self.store.disk.close()
        shutil.rmtree(self.root)
        shutil.rmtree(self.files)

    @rule(number=numbers)
    def put(self, number: int) -> None:
        self.store.put(DIGESTS[number], CONTENTS[number])
        assert self.store.get(DIGESTS[number]) == CONTENTS[number]
        self.stored.add(DIGESTS[number])
        self.damaged.discard(DIGESTS[number])

    @rule(number=numbers, other=numbers)
    def write_in_pieces(self, number: int, other: int) -> None:
        """With the wrong bytes unless the numbers are the same."""
        data = CONTENTS[other]
        try:
            with self.store.disk.writer(DIGESTS[number], len(data)) as writer:
                writer.write(data[:100])
                writer.write(data[100:])
                writer.commit()
        except BlobMismatch:
            assert number != other
        else:
            assert number == other
            self.store.unsynced.add(DIGESTS[number])
            self.stored.add(DIGESTS[number])
            self.damaged.discard(DIGESTS[number])

    @rule(number=numbers)
    def delete(self, number: int) -> None:
        self.store.delete(DIGESTS[number])
        self.stored.discard(DIGESTS[number])
        self.damaged.discard(DIGESTS[number])

    @rule()
    def sync(self) -> None:
        self.store.sync()

    @rule(seed=st.integers())
    def power_cut(self, seed: int) -> None:
        self.damaged |= self.store.unsynced & self.stored
        self.store.power_cut(Random(seed))
        self.open_again()
        self._look_at_lent_files()

    @rule()
    def open_again(self) -> None:
        self.store.disk.close()
        unsynced = self.store.unsynced
        self.store = LosesUnsynced(DiskStore(self.root))
        self.store.unsynced = unsynced

    @rule(number=numbers, offset=st.integers(0))
    def flip_a_bit(self, number: int, offset: int) -> None:
        # A power cut may have left nothing to flip.
        disk, digest = self.store.disk, DIGESTS[number]
        if self.store.has(digest) and disk.place_of(digest).size_bytes:
            flip_byte(self.store.disk, DIGESTS[number], offset)
            self.damaged.add(DIGESTS[number])
            self._look_at_lent_files()

    @rule(number=numbers, offset=st.integers(0, RECORD_BYTES - 1))
    def flip_a_bit_of_a_header(self, number: int, offset: int) -> None:
        if self.store.has(DIGESTS[number]):
            place = self.store.disk.place_of(DIGESTS[number])
            if is_pack(place):
                flip_byte_at(place.path, place.offset - RECORD_BYTES + offset)
                self.damaged.add(DIGESTS[number])

    @rule(number=numbers)
    def lend(self, number: int) -> None:
        path = self.files / str(len(os.listdir(self.files)))
        directory_fd = os.open(self.files, os.O_RDONLY)
        try:
            size_bytes = self.store.lend(DIGESTS[number], directory_fd, os.fsencode(path.name))
        except BlobCorrupt:
            assert DIGESTS[number] in self.damaged
            self.stored.discard(DIGESTS[number])
            self.damaged.discard(DIGESTS[number])
            return
        finally:
            os.close(directory_fd)
        if size_bytes is not None:
            assert size_bytes == len(CONTENTS[number])
            self.lent[path] = (len(self.lent), CONTENTS[number])
            path.chmod(0o644)
            os.utime(path, ns=(len(self.lent) - 1, len(self.lent) - 1))
        assert path.exists() == (size_bytes is not None)

    @rule(data=st.data())
    def a_run_writes_into_a_lent_file(self, data: st.DataObject) -> None:
        if not self.lent:
            return
        path = data.draw(st.sampled_from(sorted(self.lent)))
        time_ns, before = self.lent[path]
        self._note_shared(path)
        with path.open("r+b") as file:
            file.seek(data.draw(st.integers(0, len(before))))
            file.write(b"by a run")
        os.utime(path, ns=(time_ns, time_ns))
        self.lent[path] = (time_ns, path.read_bytes())

    @rule(data=st.data())
    def the_workspace_loses_a_lent_file(self, data: st.DataObject) -> None:
        """Its place stays taken by another one, so that no name is used twice."""
        if self.lent:
            path = data.draw(st.sampled_from(sorted(self.lent)))
            path.unlink()
            path.touch()
            del self.lent[path]

    def _look_at_lent_files(self) -> None:
        """The disk did something to them, which is not the store's doing."""
        for path in self.lent:
            self.lent[path] = (path.stat().st_mtime_ns, path.read_bytes())

    def _note_shared(self, path: Path) -> None:
        self.damaged |= {
            digest
            for digest in self.stored
            if (place := self.store.disk.path_of(digest)).exists() and place.samefile(path)
        }

    @rule(live=st.sets(numbers))
    def collect_all_but(self, live: set[int]) -> None:
        kept = {DIGESTS[number] for number in live}
        kept |= {blob.digest for blob in self.store.disk.stored() if blob.is_shared}
        collect(self.store.disk, kept, limit_bytes=0, grace_s=-60)
        self.stored &= kept
        self.damaged &= kept

    @rule(number=numbers)
    def get(self, number: int) -> None:
        digest = DIGESTS[number]
        try:
            assert self.store.get(digest) == CONTENTS[number]
        except BlobCorrupt:
            assert digest in self.damaged
            assert not self.store.has(digest)
            self.stored.discard(digest)
            self.damaged.discard(digest)
        except BlobMissing:
            assert digest not in self.stored or digest in self.damaged
            self.stored.discard(digest)
            self.damaged.discard(digest)

    @rule(number=numbers)
    def check(self, number: int) -> None:
        digest = DIGESTS[number]
        if not self.store.check(digest):
            assert digest not in self.stored or digest in self.damaged
            self.stored.discard(digest)
            self.damaged.discard(digest)

    @invariant()
    def files_of_the_workspace_are_as_it_and_its_runs_left_them(self) -> None:
        for path, (time_ns, content) in self.lent.items():
            assert path.stat().st_mtime_ns == time_ns
            assert path.read_bytes() == content

    @invariant()
    def what_is_undamaged_is_there(self) -> None:
        present = {digest for digest in DIGESTS if self.store.has(digest)}
        assert present - self.damaged == self.stored - self.damaged


TestStoreMachine = pytest.mark.timeout(600)(StoreMachine.TestCase)
TestStoreMachine.settings = settings(max_examples=EXAMPLES, stateful_step_count=40, deadline=None)

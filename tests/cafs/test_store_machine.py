"""The store under every order of puts, losses of power, flipped bits and collections."""

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
EXAMPLES = 1000 if os.environ.get("DEVLOOP_SOAK") == "1" else 30
numbers = st.integers(0, len(CONTENTS) - 1)


class StoreMachine(RuleBasedStateMachine):
    """`durable` holds what must be served; `damaged` what may be refused, never served wrong."""

    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp(prefix="dl-machine-"))
        self.store = LosesUnsynced(DiskStore(self.root))
        self.stored: set[Digest] = set()
        self.damaged: set[Digest] = set()

    def teardown(self) -> None:
        assert {digest for digest in DIGESTS if self.store.has(digest)} == set(self.store)
        assert not list(self.root.glob("*/**/.tmp-*"))
        self.store.disk.close()
        shutil.rmtree(self.root)

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

    @rule()
    def open_again(self) -> None:
        self.store.disk.close()
        unsynced = self.store.unsynced
        self.store = LosesUnsynced(DiskStore(self.root))
        self.store.unsynced = unsynced

    @rule(number=numbers, offset=st.integers(0))
    def flip_a_bit(self, number: int, offset: int) -> None:
        if CONTENTS[number] and self.store.has(DIGESTS[number]):
            flip_byte(self.store.disk, DIGESTS[number], offset)
            self.damaged.add(DIGESTS[number])

    @rule(number=numbers, offset=st.integers(0, RECORD_BYTES - 1))
    def flip_a_bit_of_a_header(self, number: int, offset: int) -> None:
        if self.store.has(DIGESTS[number]):
            place = self.store.disk.place_of(DIGESTS[number])
            if is_pack(place):
                flip_byte_at(place.path, place.offset - RECORD_BYTES + offset)
                self.damaged.add(DIGESTS[number])

    @rule(live=st.sets(numbers))
    def collect_all_but(self, live: set[int]) -> None:
        kept = {DIGESTS[number] for number in live}
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

    @invariant()
    def what_is_undamaged_is_there(self) -> None:
        present = {digest for digest in DIGESTS if self.store.has(digest)}
        assert present - self.damaged == self.stored - self.damaged


TestStoreMachine = pytest.mark.timeout(600)(StoreMachine.TestCase)
TestStoreMachine.settings = settings(max_examples=EXAMPLES, stateful_step_count=40, deadline=None)

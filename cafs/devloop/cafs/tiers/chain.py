"""Several tiers as one, nearest first: what it gives is verified.

Owns the order in which tiers are asked, who is left alone for a while, and that every byte it
hands out hashes to what it was asked for. Refuses to know where the bytes are stored.
"""

from __future__ import annotations

import errno
import os
import time
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from devloop.cafs.digest import Digest, Hasher, digest_of
from devloop.cafs.errors import BlobMissing, DevloopError
from devloop.cafs.index import CHUNK_BYTES

from .tier import TierError, TierUnreachable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from typing import Self

    from .tier import Tier, Wanted

    Sink = Callable[[bytes], object]

__all__ = ["BlobUnavailable", "Fetched", "Note", "Tiers"]

T = TypeVar("T")

_DEAD_S = 2.0  # for so long a tier that did not answer is not asked again
_MAX_DEAD_S = 8.0


class BlobUnavailable(TierError):
    """No tier gave a blob. `may_heal`: one of them did not answer, and may answer later."""

    hint = "check `store` in devloop.toml, or `devloop image pull` the image from its registry"

    def __init__(self, digest: Digest, reasons: Sequence[str], *, may_heal: bool) -> None:
        told = "; ".join(reasons) or "there are no tiers"
        super().__init__(f"blob {digest.short} cannot be had: {told}")
        self.digest = digest
        self.may_heal = may_heal


class Note(NamedTuple):
    """What the user is told of a tier that did not give what it was asked for."""

    tier: str
    reason: str
    digest: Digest | None = None


class Fetched(NamedTuple):
    data: bytes
    tier: str


class _Corrupt(Exception):
    """What a tier gave is not what its digest names."""


class _Faulty(Exception):
    """A tier has raised what it must not: a fault of the program. To try again would not help."""


class Tiers:
    """For many threads. Each method asks tier after tier; a blob that none gives raises
    BlobUnavailable. `tell` is called from those threads."""

    def __init__(
        self, tiers: Sequence[Tier], *, tell: Callable[[Note], None] = lambda note: None
    ) -> None:
        self._all = [_Health(tier) for tier in tiers]
        self._tell = tell
        self._unreachable_since: float | None = None

    def __len__(self) -> int:
        return len(self._all)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        for health in self._all:
            health.tier.close()

    @property
    def names(self) -> str:
        """For people."""
        return ", ".join(each.name for each in self._all)

    @property
    def unreachable_since(self) -> float | None:
        """Monotonic time since when nobody has answered; None as long as somebody does."""
        return self._unreachable_since

    # ------------------------------------------------------------------ blobs

    def get(self, digest: Digest, size_bytes: int) -> Fetched:
        """A blob that fits into memory."""

        def ask(tier: Tier) -> Fetched:
            data = b"".join(_sound(lambda: tier.fetch(digest, size_bytes)))
            _check(digest, data)
            return Fetched(data, tier.describe())

        return self._first(digest, ask)

    def get_range(
        self, digest: Digest, offset: int, size_bytes: int, chunks: Sequence[Digest]
    ) -> Fetched:
        """Whole chunks of a blob (the last one may be short): `chunks` are their digests."""

        def ask(tier: Tier) -> Fetched:
            (data,) = _sound(lambda: [tier.fetch_range(digest, offset, size_bytes)])
            if len(data) != size_bytes:
                raise _Corrupt(f"has {len(data):,} of {size_bytes:,} bytes at {offset:,}")
            for number, chunk in enumerate(chunks):
                start = number * CHUNK_BYTES
                if digest_of(memoryview(data)[start : start + CHUNK_BYTES]) != chunk:
                    raise _Corrupt(f"has other bytes at {offset + start:,}")
            return Fetched(data, tier.describe())

        return self._first(digest, ask)

    def copy(self, digest: Digest, size_bytes: int, begin: Callable[[], Sink]) -> str:
        """A blob of any size. Each try calls `begin` for where its bytes go; they are good once
        this returns, with the name of the tier they came from."""

        def ask(tier: Tier) -> str:
            write, hasher = begin(), Hasher()
            for piece in _sound(lambda: tier.fetch(digest, size_bytes)):
                hasher.update(piece)
                write(piece)
            if hasher.digest() != digest:
                raise _Corrupt("has other bytes")
            return tier.describe()

        return self._first(digest, ask)

    def get_many(self, wanted: Sequence[Wanted]) -> Iterator[tuple[Digest, bytes]]:
        """Small blobs, in no particular order. Raises BlobUnavailable at the end for the first of
        those that nobody has."""
        left = dict(wanted)
        reasons: list[str] = []
        may_heal = False
        for health in self._all:
            if not left:
                return
            try:
                yield from self._take(health.asked(), left)
            except TierUnreachable as error:
                may_heal = True
                reasons.append(str(error))
                self._failed(health, error)
            except _Faulty as error:
                reasons.append(f"{health.name}: {error}")
                self._tell(Note(health.name, str(error)))
            else:
                self._answered(health)
        for digest in left:
            raise BlobUnavailable(digest, reasons or self._nobody_has(), may_heal=may_heal)

    def _take(self, tier: Tier, left: dict[Digest, int]) -> Iterator[tuple[Digest, bytes]]:
        for digest, data in _sound(lambda: tier.fetch_many(list(left.items()))):
            if digest not in left:
                raise TierUnreachable(tier.describe(), f"sent {digest.short}, unasked")
            if digest_of(data) != digest:
                self._tell(Note(tier.describe(), "has other bytes", digest))
                continue
            del left[digest]
            yield digest, data

    def _first(self, digest: Digest, ask: Callable[[Tier], T]) -> T:
        reasons: list[str] = []
        may_heal = False
        for health in self._all:
            try:
                given = ask(health.asked())
            except BlobMissing:
                self._answered(health)
                reasons.append(f"{health.name} does not have it")
            except _Corrupt as error:
                self._answered(health)
                reasons.append(f"{health.name} {error}")
                self._tell(Note(health.name, str(error), digest))
            except TierUnreachable as error:
                may_heal = True
                reasons.append(str(error))
                self._failed(health, error)
            except _Faulty as error:
                reasons.append(f"{health.name}: {error}")
                self._tell(Note(health.name, str(error), digest))
            else:
                self._answered(health)
                return given
        raise BlobUnavailable(digest, reasons, may_heal=may_heal)

    def _nobody_has(self) -> list[str]:
        return [f"{health.name} does not have it" for health in self._all]

    # ------------------------------------------------------------------ named files

    def get_named(self, name: str) -> bytes | None:
        """From the first tier that has it; the caller verifies. None also when nobody answers."""
        for health in self._all:
            try:
                data = health.asked().get_named(name)
            except TierUnreachable as error:
                self._failed(health, error)
                continue
            self._answered(health)
            if data is not None:
                return data
        return None

    # ------------------------------------------------------------------ who answers

    def _answered(self, health: _Health) -> None:
        health.failures = 0
        self._unreachable_since = None

    def _failed(self, health: _Health, error: TierUnreachable) -> None:
        if not isinstance(error, _LeftAlone):
            health.fail(error.reason)
            self._tell(Note(health.name, error.reason))
        if self._unreachable_since is None and all(each.failures for each in self._all):
            self._unreachable_since = time.monotonic()


class _LeftAlone(TierUnreachable):
    """Not asked, since it did not answer a moment ago."""


class _Health:
    def __init__(self, tier: Tier) -> None:
        self.tier = tier
        self.name = tier.describe()
        self.failures = 0
        self._dead_until = 0.0
        self._reason = ""

    @property
    def is_dead(self) -> bool:
        return time.monotonic() < self._dead_until

    def asked(self) -> Tier:
        """Raises _LeftAlone."""
        if self.is_dead:
            raise _LeftAlone(self.name, self._reason)
        return self.tier

    def fail(self, reason: str) -> None:
        self._reason = reason
        self._dead_until = time.monotonic() + min(_DEAD_S * 2**self.failures, _MAX_DEAD_S)
        self.failures += 1


def _sound(ask: Callable[[], Iterable[T]]) -> Iterator[T]:
    """What a tier gives. A fault in it is told from one in who takes it: another tier may still
    have what is wanted. Raises _Faulty, and OSError where descriptors have run out."""
    try:
        yield from ask()
    except DevloopError:
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
            raise
        raise _Faulty(f"a fault in devloop: {_place_of(error)}") from error


def _place_of(error: Exception) -> str:
    """Its words may hold an address with a password: its kind and place are enough."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return type(error).__name__
    file = os.path.basename(trace.tb_frame.f_code.co_filename)
    return f"{type(error).__name__} at {file}:{trace.tb_lineno}"


def _check(digest: Digest, data: bytes) -> None:
    if digest_of(data) != digest:
        raise _Corrupt("has other bytes")

"""Promise 1: a killed agent never leaves a corrupt blob or tree."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from devloop.cafs.digest import Digest
from devloop.cafs.store import DiskStore
from devloop.cafs.tree import load_tree

if TYPE_CHECKING:
    from pathlib import Path

KILLS = 500 if os.environ.get("DEVLOOP_SOAK") == "1" else 40
WRITERS = 2  # at a time, on the same names: puts meet each other too

# Stores trees bottom-up without end, lends large files as to a workspace, and prints the name of
# each tree that is complete.
WRITER = """
import os, random, sys
from pathlib import Path
from devloop.cafs.digest import digest_of
from devloop.cafs.store import DiskStore
from devloop.cafs.tree import Dir, File, Node

store, rng = DiskStore(Path(sys.argv[1])), random.Random(int(sys.argv[2]))
files = os.open(sys.argv[3], os.O_RDONLY)
number = 0

def lend(digest):
    global number
    number += 1
    name = b"%d-%d" % (os.getpid(), number)
    if store.lend(digest, files, name) is not None:
        os.chmod(name, 0o644, dir_fd=files)
        os.utime(name, ns=(number, number), dir_fd=files)
        if rng.random() < 0.5:
            os.unlink(name, dir_fd=files)

def put_file():
    data = rng.randbytes(rng.choice([0, 10, 4096, 70_000, 700_000]))
    digest = digest_of(data)
    if len(data) < 100_000:
        store.put(digest, data)
    else:
        with store.writer(digest, len(data)) as writer:
            for start in range(0, len(data), 65536):
                writer.write(data[start:start + 65536])
            writer.commit()
    if rng.random() < 0.7:
        lend(digest)
    return File(0o644, len(data), 0, digest)

print("ready", flush=True)
while True:
    below = Node({b"%d" % number: put_file() for number in range(4)}, {})
    root = Node({b"dir": Dir(0o755, below.digest)}, {b"dir": below})
    store.put(below.digest, below.encoded)
    store.put(root.digest, root.encoded)
    print(root.digest.hex(), flush=True)
"""


@pytest.mark.promise(1)
def test_promise_01_a_killed_writer_leaves_no_corrupt_blob_or_tree(tmp_path: Path) -> None:
    rng = random.Random(1)
    trees: set[str] = set()
    (tmp_path / "files").mkdir()
    for kill in range(0, KILLS, WRITERS):
        # Both of a pair write the same blobs, and every fifth pair those of an earlier one.
        seed = str(kill // 5)
        trees |= _run_and_kill(tmp_path / "store", seed, rng.uniform(0, 0.06))
    with DiskStore(tmp_path / "store") as store:
        blobs = sum(1 for _ in store)
        lent = sum(blob.is_shared for blob in store.stored())
        assert list(store.verify()) == []
        for tree in trees:
            load_tree(Digest.fromhex(tree), store.get)
        left = store.remove_temporaries(older_than_s=-60)
        assert not list(tmp_path.glob("store/blobs/*/.tmp-*"))
    assert blobs
    print(
        f"{KILLS} kills: {blobs} blobs ({lent} lent), {len(trees)} trees, 0 bad; "
        f"{left} temporary files left"
    )


def _run_and_kill(store: Path, seed: str, after_s: float) -> set[str]:
    """Returns the trees that the writers said were complete."""
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, str(store), seed, str(store.with_name("files"))],
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(WRITERS)
    ]
    told: set[str] = set()
    for writer in writers:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
    time.sleep(after_s)  # the random point: not a wait for anything
    for writer in writers:
        writer.send_signal(signal.SIGKILL)
    for writer in writers:
        output, _ = writer.communicate()
        assert writer.returncode == -signal.SIGKILL  # none had failed before
        told |= {line for line in output.split("\n")[:-1] if len(line) == 64}
    return told

"""Containers of an agent that is not root: the tests of this folder, run by an ordinary user.

What such a user sees of `devloop` itself is in tests/e2e/test_rootless.py.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.e2e.box import clean_environment
from tests.e2e.ordinary import ordinary_user, skip_unless_possible
from tests.images.bases import debian_base

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.e2e.ordinary import User

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
LOOK = """
from devloop.remote_agent.container.rootless import NoNamespace, look_at_namespace
try:
    look_at_namespace()
except NoNamespace as error:
    print(error, "|", error.hint)
"""


@pytest.fixture
def home() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="dl-"))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def user(home: Path) -> Iterator[User]:
    skip_unless_possible(ranges=True)
    with ordinary_user(home, ranges=True) as user:
        user.own(home)
        yield user


def pass_for(user: User, home: Path, *words: str, **env: str) -> None:
    options = ["-q", "-n", "0", "-p", "no:cacheprovider", "--basetemp", str(home / "tests")]
    done = subprocess.run(
        [*user.prefix, sys.executable, "-B", "-m", "pytest", *options, *words],
        cwd=HERE,
        env=clean_environment(home) | {"HOME": str(home)} | env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-1000:]
    assert " passed" in done.stdout


# Minutes for both runtimes and a real image: those in the soak.
QUICK = [
    ("test_container.py", "crun"),
    ("test_mount_levels.py", ""),
    ("test_file_calls.py", ""),
    ("test_touches.py", ""),
]
SLOW = [
    ("test_container.py", "runc"),
    ("test_hostile_roots.py", ""),
    ("test_image_roots.py", "crun"),
]


@pytest.mark.timeout(400)  # tests in a test
@pytest.mark.parametrize(
    ("file", "chosen"), [*QUICK, *(SLOW if os.environ.get("DEVLOOP_SOAK") else [])]
)
def test_an_ordinary_user_passes_the_tests_of_containers(
    user: User, home: Path, file: str, chosen: str
) -> None:
    images = home / "images"
    if file == "test_image_roots.py":
        layout = debian_base().layout
        shutil.copytree(layout, images / layout.name)
        user.own(images)
    chosen_words = ["-k", chosen] if chosen else []
    pass_for(user, home, file, *chosen_words, IMAGE_CACHE=str(images))


def test_a_box_that_allows_no_user_namespace_says_which_switch_forbids_it() -> None:
    skip_unless_possible(ranges=False)
    forbid = "echo 0 >/proc/sys/user/max_user_namespaces; exec setpriv --bounding-set -sys_admin"
    forbidden = ["unshare", "--user", "--map-root-user", "sh", "-c", f'{forbid} "$@"', "sh"]
    done = subprocess.run(
        [*forbidden, sys.executable, "-c", LOOK],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "user namespaces are not allowed on the box: " in done.stdout, done
    assert "| as root: sysctl user.max_user_namespaces=" in done.stdout, done

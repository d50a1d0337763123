"""Promise 10: a lost link loses and repeats no log line; it is noticed and resumed in time."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tests.e2e.conftest import open_either

PROGRAM = Path(__file__).with_name("link_loss.py")
IS_SOAK = os.environ.get("DEVLOOP_SOAK") == "1"
LINES, LOSS_S = (1_000_000, 60.0) if IS_SOAK else (100_000, 20.0)
NOTICED_WITHIN_S = 16.0
RESUMED_WITHIN_S = 3.0


@pytest.mark.promise(10)
@pytest.mark.timeout(300)
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: network namespaces")
@pytest.mark.skipif(not shutil.which("iptables"), reason="needs iptables")
def test_a_link_loss_loses_and_repeats_no_line(ssh_shared: Path) -> None:
    with open_either("ssh", ssh_shared) as box:
        assert box.exec(box.project(), "true").code == 0
    words = [sys.executable, str(PROGRAM), str(ssh_shared), str(LINES), str(LOSS_S)]
    done = subprocess.run(["unshare", "--net", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout.splitlines()[-1])
    print(
        f"promise 10: {LINES:,} lines over a link that was away for {LOSS_S:g} s: noticed after "
        f"{seen['noticed_s']:.1f} s, resumed within {seen['resumed_s']:.1f} s"
    )
    assert seen["code"] == 0, seen
    assert seen["seen_when_lost"] < LINES, "the run was over before the link came back"
    assert seen["in_order"], f"{seen['lines']:,} of {LINES:,} lines: {seen['talk']}"
    assert seen["noticed_s"] <= NOTICED_WITHIN_S, seen
    assert seen["resumed_s"] <= RESUMED_WITHIN_S, seen

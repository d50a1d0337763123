"""The scripts and the example."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from devloop.cli.config import load_config

ROOT = Path(__file__).parents[2]


def test_the_example_needs_nothing_but_python() -> None:
    done = subprocess.run(
        [sys.executable, "-I", "-S", ROOT / "examples" / "hello-gpu" / "train.py"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith("device: ")
    assert done.stdout.endswith("done\n")
    assert done.stderr == ""


def test_the_example_is_configured_to_run() -> None:
    config = load_config(ROOT / "examples" / "hello-gpu")
    assert config.root == ROOT / "examples" / "hello-gpu"
    assert config.run.command == ("python", "train.py")


def test_the_demo_saves_a_change_that_the_example_really_has() -> None:
    demo = (ROOT / "scripts" / "demo").read_text()
    example = (ROOT / "examples" / "hello-gpu" / "train.py").read_text()
    assert "s/^LEARNING_RATE = .*/LEARNING_RATE = 0.5/" in demo
    assert "learning rate: 0.05" in demo
    assert "\nLEARNING_RATE = 0.05\n" in example


def test_the_demo_has_an_agent_of_its_own_before_it_calls_devloop() -> None:
    demo = (ROOT / "scripts" / "demo").read_text()
    before = demo.partition('"$devloop" ')[0]
    for name in ("STATE", "RUNTIME", "CACHE"):
        assert f'DEVLOOP_{name}_DIR="$work/' in before


@pytest.mark.parametrize("name", ["bootstrap", "demo", "lint", "test"])
def test_every_script_is_executable_and_parses(name: str) -> None:
    script = ROOT / "scripts" / name
    assert shutil.which(str(script))
    subprocess.run(["bash", "-n", script], check=True)


def test_the_constraints_pin_versions_and_name_no_address() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [line for line in lines if not line.startswith("#")]
    assert pins == sorted(pins)
    assert all(pin.count("==") == 1 and "/" not in pin and "@" not in pin for pin in pins)


def test_nothing_occupies_the_namespace() -> None:
    roots = [path for path in ROOT.iterdir() if (path / "devloop").is_dir()]
    assert {path.name for path in roots} >= {"cafs", "cli", "proto"}
    assert [path for path in roots if (path / "devloop" / "__init__.py").exists()] == []

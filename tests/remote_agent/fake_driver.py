"""A real driver library for a box whose GPUs a test makes up; `fake_nvml.c` describes its file."""

from __future__ import annotations

import subprocess
from pathlib import Path

SOURCE = Path(__file__).with_name("fake_nvml.c")
A100 = "NVIDIA A100-SXM4-40GB"


class FakeDriver:
    """In `directory`, which other users may enter; what it says may be changed at any time."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._box = directory / "box"
        self.wedged = directory / "wedged"
        library = directory / "libnvidia-ml.so.1"
        subprocess.run(["cc", "-shared", "-fPIC", "-w", "-o", library, SOURCE], check=True)
        self.env = {
            "LD_LIBRARY_PATH": str(directory),
            "FAKE_NVML_BOX": str(self._box),
            "FAKE_NVML_WEDGED": str(self.wedged),
        }

    def says(self, *lines: str) -> None:
        """The box's lines from now on; a reader sees the old ones or the new ones."""
        temporary = self._box.with_suffix(".new")
        temporary.write_text("".join(f"{line}\n" for line in lines))
        temporary.replace(self._box)


def gpu_line(*, total_mib: int = 40536, used_mib: int = 5, divided: bool = False) -> str:
    return f"gpu {total_mib} {used_mib} {divided:d} {A100}"

"""Bad input gets one `error:` and one `hint:`, or one line of talk; nothing is lost."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from .box import events, open_box

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .box import Box

MANY_FILES = 1_000_000 if os.environ.get("DEVLOOP_SOAK") == "1" else 30_000
AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


def test_a_configuration_that_does_not_parse_names_the_place(box: Box) -> None:
    project = box.project()
    (project / "devloop.toml").write_text('target = "local"\nrun = [\n')
    box.exec(project, "true").assert_error("devloop.toml:3:1: Invalid value")
    (project / "devloop.toml").write_text('[run]\ncomand = "x"\n')
    done = box.exec(project, "true")
    done.assert_error("devloop.toml:2: unknown key run.comand")
    assert "did you mean run.command?" in done.stderr


def test_a_root_that_does_not_exist_is_named(box: Box) -> None:
    done = box.run(box.base, "-C", "/nonexistent", "exec", "--", "true")
    done.assert_error("/nonexistent does not exist")


@pytest.mark.parametrize("verb", ["exec", "up"])
def test_the_root_and_the_home_directory_are_refused_without_a_terminal(
    box: Box, verb: str
) -> None:
    home = box.project("home")
    words = (verb, "--", "true")
    box.run(Path("/"), *words).assert_error("is not a project")
    box.run(home, *words, env={"HOME": str(home)}).assert_error("the home directory is not")


def test_fifos_and_sockets_are_skipped_and_named_once(box: Box) -> None:
    project = special_files(box.project())
    done = box.exec(project, "ls")
    assert (done.code, done.text) == (0, "file\n")
    for name in ("fifo", "socket"):
        assert done.stderr.count(name) == 1, done.stderr


@AS_ROOT
def test_unreadable_files_are_skipped_and_named_once(box: Box) -> None:
    with open_box() as weak:
        # A root without these capabilities may read no more than anybody else.
        weak.prefix = ("setpriv", "--bounding-set=-dac_override,-dac_read_search")
        project = weak.project()
        (project / "file").touch()
        (project / "secret").write_text("x")
        (project / "secret").chmod(0)
        (project / "closed").mkdir(mode=0)
        done = weak.exec(project, "ls")
        assert done.code == 0
        assert "file" in done.text
        assert "secret" not in done.text
        for name in ("secret", "closed"):
            assert done.stderr.count(f"'{name}'") == 1, done.stderr


def test_a_name_that_is_not_utf8_travels_as_it_is(box: Box) -> None:
    project = box.project()
    name = os.fsencode(project) + b"/b\xff\xfed"
    with open(name, "wb") as file:  # noqa: PTH123 - Path takes no bytes
        file.write(b"content")
    assert box.exec(project, "cat", b"b\xff\xfed").text == "content"


def test_links_out_of_the_project_are_kept_and_never_followed(box: Box) -> None:
    project = box.project()
    (project.parent / "outside").mkdir()
    (project.parent / "outside" / "file").write_text("not to be copied")
    (project / "up").symlink_to("../outside")
    (project / "etc").symlink_to("/etc/hostname")
    done = box.exec(project, "readlink", "up", "etc")
    assert done.text == "../outside\n/etc/hostname\n"
    assert not list(box.state_dir.glob("workspaces/*/outside"))
    assert b"not to be copied" not in box.exec(project, "cat", "up/file").stdout


def test_a_file_that_changes_while_it_is_read_gives_no_torn_copy(box: Box) -> None:
    project = box.project()
    ended = threading.Event()

    def rewrite() -> None:
        version = 0
        while not ended.wait(0.005):
            version += 1
            fresh = project / "fresh"
            fresh.write_text(f"{version:06}\n" * 2000)
            fresh.replace(project / "log")

    writer = threading.Thread(target=rewrite)
    writer.start()
    try:
        for _ in range(3):
            done = box.exec(project, "sh", "-c", "sort -u log | wc -l; wc -l < log")
            if done.code == 255:
                done.assert_error("changed while it was uploaded")
            else:
                assert done.text.split() in (["1", "2000"], ["0", "0"]), done
    finally:
        ended.set()
        writer.join()


def test_a_tree_of_many_entries_arrives(box: Box) -> None:
    project = box.project()
    per_directory = 1000
    for directory in range(MANY_FILES // per_directory):
        (project / f"d{directory}").mkdir()
        for number in range(per_directory):
            os.close(os.open(project / f"d{directory}" / f"f{number}", os.O_CREAT | os.O_WRONLY))
    done = box.exec(project, "sh", "-c", "find . -type f | wc -l", timeout_s=600)
    assert int(done.text) == MANY_FILES
    shutil.rmtree(project)


@pytest.mark.embedded
def test_an_idle_agent_of_another_version_is_replaced(own_box: Box, tmp_path: Path) -> None:
    project = own_box.project()
    assert own_box.exec(project, "true", env=other_version(tmp_path)).code == 0
    assert "agent 9.9.9" in own_box.run(project, "version").text
    done = own_box.exec(project, "echo", "hi")
    assert (done.code, done.text, done.stderr) == (0, "hi\n", "")


@pytest.mark.embedded
def test_an_agent_of_another_version_keeps_its_live_runs(own_box: Box, tmp_path: Path) -> None:
    project = own_box.project()
    started = own_box.run(project, "exec", "-d", "--", "sleep", "60", env=other_version(tmp_path))
    done = own_box.exec(project, "true")
    done.assert_error("the agent here is devloop 9.9.9, this is ")
    assert f"run {started.text.strip()} is live" in done.stderr
    assert own_box.run(project, "stop").code == 0
    assert own_box.exec(project, "true").code == 0


@pytest.mark.embedded
@AS_ROOT
def test_a_full_disk_is_one_line_and_the_next_try_works(own_box: Box, small_disk: Path) -> None:
    env = {"DEVLOOP_STATE_DIR": str(small_disk / "state")}
    project = own_box.project(keep="print('runs')")
    assert own_box.exec(project, "python3", "keep.py", env=env).text == "runs\n"
    (project / "big").write_bytes(os.urandom(12 << 20))
    done = own_box.exec(project, "python3", "keep.py", env=env)
    done.assert_error("no space left at")
    assert "bytes needed" in done.stderr
    (project / "big").unlink()
    assert own_box.exec(project, "python3", "keep.py", env=env).text == "runs\n"
    assert own_box.run(project, "down").code == 0


@pytest.mark.embedded
@AS_ROOT
@pytest.mark.parametrize("harm", ["read-only", "full"])
def test_an_unusable_home_is_one_error(own_box: Box, small_disk: Path, harm: str) -> None:
    if harm == "full":
        with pytest.raises(OSError, match="No space"):
            (small_disk / "fill").write_bytes(b"x" * (16 << 20))
    else:
        subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    names = ("DEVLOOP_STATE_DIR", "DEVLOOP_CACHE_DIR")
    for name in names:
        del own_box.env[name]
    done = own_box.exec(own_box.project(), "true", env={"HOME": str(small_disk)})
    done.assert_error("No space left" if harm == "full" else "Read-only file system")


@pytest.mark.embedded
def test_a_directory_instead_of_the_socket_is_one_error(own_box: Box) -> None:
    own_box.runtime_dir.mkdir(mode=0o700)
    (own_box.runtime_dir / "agent.sock").mkdir()
    done = own_box.exec(own_box.project(), "true")
    assert done.code == 255
    assert "Traceback" not in done.stderr
    (own_box.runtime_dir / "agent.sock").rmdir()


@pytest.mark.embedded
def test_verbs_without_an_agent_say_how_to_start_one(own_box: Box) -> None:
    project = own_box.project()
    for verb in (["ps"], ["stop"], ["attach"]):
        own_box.run(project, *verb).assert_error("no agent runs here", code=1)
    own_box.run(project, "logs").assert_error("project has no runs", code=1)
    assert own_box.run(project, "down").code == 0


def test_with_json_a_failed_start_is_an_event(box: Box) -> None:
    done = box.run(box.project(), "exec", "--json", "--", "nosuch")
    assert done.code == 127
    assert events(done)[-1]["exit_code"] == 127


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    mounted = tmp_path / "disk"
    mounted.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "none", mounted], check=True)
    try:
        yield mounted
    finally:
        subprocess.run(["umount", "--lazy", mounted], check=True)


def special_files(project: Path) -> Path:
    (project / "file").touch()
    os.mkfifo(project / "fifo")
    with socket.socket(socket.AF_UNIX) as planted:
        here = Path.cwd()
        os.chdir(project)  # a socket's path may hold no more than 100 bytes
        try:
            planted.bind("socket")
        finally:
            os.chdir(here)
    return project


def other_version(tmp_path: Path) -> dict[str, str]:
    """An environment in which devloop is another version."""
    (tmp_path / "sitecustomize.py").write_text(
        "import devloop.cafs.version as version\nversion.VERSION = '9.9.9'\n"
    )
    return {"PYTHONPATH": str(tmp_path)}

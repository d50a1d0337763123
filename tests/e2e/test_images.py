"""Runs in an image: the verbs as a user types them, on an image that a real registry serves."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest
from tests.images.bases import debian_base
from tests.images.layout import Image, layer, write_layout
from tests.images.programs import small_root
from tests.images.registry import missing_program, start_registry

from devloop.cafs.digest import digest_of

from .box import Tail, Up, events, open_box, save, wait_until
from .terminal import open_terminal

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.images.registry import Registry

    from .box import Box

WHERE = """\
import os, sys
print(os.getcwd(), sys.prefix, os.path.exists("/etc/debian_version"), __file__)
"""


@pytest.fixture(scope="module", autouse=True)
def _possible() -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    if "overlay" not in Path("/proc/filesystems").read_text():
        pytest.skip("needs overlayfs")


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    if missing := missing_program():
        pytest.skip(f"needs {missing}")
    base = debian_base()
    with start_registry(tmp_path_factory.mktemp("registry") / "r") as opened:
        opened.push(base.reference, "team/train:1")
        yield opened


@pytest.fixture(scope="module")
def train(registry: Registry) -> str:
    """The reference of Debian with Python."""
    return registry.name("team/train:1")


def in_image(box: Box, image: str, more: str = "", **files: str) -> Path:
    project = box.project(**files)
    (project / "devloop.toml").write_text(f'image = "{image}"\n{more}')
    return project


def mounts_below(folder: Path) -> list[str]:
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return [line for line in lines if str(folder) in line]


class TestExec:
    def test_the_image_is_pulled_and_the_program_runs_in_it(self, box: Box, train: str) -> None:
        project = in_image(box, train, where=WHERE)
        done = box.exec(project, "python3", "where.py")
        assert done.text == "/workspace /usr True /workspace/where.py\n", done
        assert box.exec(project, "cat", "/etc/debian_version").text.startswith("12")

    def test_a_word_on_the_command_line_is_enough(self, box: Box, train: str) -> None:
        project = box.project(where=WHERE)
        done = box.run(project, "exec", "--image", train, "where.py")
        assert done.text.startswith("/workspace /usr True"), done

    def test_exit_status_signal_and_stdin_are_those_of_the_program(
        self, box: Box, train: str
    ) -> None:
        project = in_image(box, train)
        assert box.exec(project, "sh", "-c", "exit 7").code == 7
        assert box.exec(project, "sh", "-c", "kill -TERM $$").code == 128 + signal.SIGTERM
        assert box.exec(project, "wc", "-c", stdin=b"x" * 300_000).text == "300000\n"
        box.exec(project, "no-such-program").assert_error("command not found", code=127)

    def test_a_save_is_what_the_next_run_executes(self, box: Box, train: str) -> None:
        project = in_image(box, train, main="print(1)")
        for number in range(1, 6):
            save(project / "main.py", f"print({number})\n")
            assert box.exec(project, "python3", "main.py").text == f"{number}\n"

    def test_another_user_than_root_lives_in_the_workspace(self, box: Box, train: str) -> None:
        more = '[container]\nuser = "1234:56"\n[sync]\noutputs = ["out/"]\n'
        project = in_image(box, train, more, main="print('read')")
        script = "id -u; python3 main.py; mkdir out; echo kept >out/model; stat -c %u:%g out"
        assert box.exec(project, "sh", "-ec", script).text == "1234\nread\n1234:56\n"
        assert (project / "out/model").read_text() == "kept\n"
        save(project / "main.py", "print('again')\n")
        assert box.exec(project, "python3", "main.py").text == "again\n"

    def test_outputs_come_back(self, box: Box, train: str) -> None:
        project = in_image(box, train, '[sync]\noutputs = ["out/"]\n')
        done = box.exec(project, "sh", "-c", "mkdir -p out && echo kept >out/model && umask")
        assert (project / "out/model").read_text() == "kept\n", done

    def test_a_python_program_is_forked_from_a_warm_interpreter_of_the_image(
        self, box: Box, train: str
    ) -> None:
        project = in_image(
            box, train, main="import sys; print(sys.version_info[:2], 'json' in sys.modules)"
        )
        (project / "devloop.toml").write_text(f'image = "{train}"\n[run]\npreload = ["json"]\n')

        def is_warm() -> bool:
            done = box.run(project, "exec", "--json", "--", "python3", "main.py")
            started = next(event for event in events(done) if event["event"] == "started")
            return started["start"] == "zygote"

        wait_until(is_warm)
        assert box.exec(project, "python3", "main.py").text == "(3, 11) True\n"

    def test_what_a_run_writes_outside_the_workspace_is_thrown_away_with_the_container(
        self, own_box: Box, train: str
    ) -> None:
        project = in_image(own_box, train)
        assert own_box.exec(project, "sh", "-c", "echo 1 >/opt/x; cat /opt/x").text == "1\n"
        own_box.run(project, "down")
        assert own_box.exec(project, "cat", "/opt/x").code == 1

    def test_an_image_named_anew_is_what_runs_next(
        self, box: Box, train: str, registry: Registry
    ) -> None:
        project = in_image(box, train, main="import os; print(os.environ.get('FLAVOUR'))")
        assert box.exec(project, "python3", "main.py").text == "None\n"
        other = _with_env(registry, "FLAVOUR=lime", "team/train:lime")
        (project / "devloop.toml").write_text(f'image = "{other}"\n')
        assert box.exec(project, "python3", "main.py").text == "lime\n"
        (project / "devloop.toml").write_text('image = "host"\n')
        assert box.exec(project, "python3", "main.py").text == "None\n"


class TestOtherUsers:
    """Neither the synced files nor what runs leave may stand in anybody's way."""

    @pytest.fixture(params=["1000:1000", "www-data"])
    def toml(self, request: pytest.FixtureRequest, train: str, tmp_path: Path) -> str:
        outputs = '[sync]\noutputs = ["out/"]\n'
        if request.param == "1000:1000":
            return f'image = "{train}"\n{outputs}[container]\nuser = "1000:1000"\n'
        shutil.copytree(debian_base().layout, tmp_path / "layout")
        image = f"{tmp_path}/layout:latest"
        command = ["umoci", "config", "--image", image, f"--config.user={request.param}"]
        subprocess.run(command, check=True)
        return f'image = "oci:{image}"\n{outputs}'

    def test_a_run_of_another_user_reads_writes_and_leaves_outputs(
        self, own_box: Box, toml: str
    ) -> None:
        project = own_box.project(main="import os; print(os.getuid(), os.access('.', os.W_OK))")
        (project / "devloop.toml").write_text(toml)
        (project / "sub").mkdir()
        (project / "sub/data").write_text("synced\n")
        uid = 1000 if "1000" in toml else 33
        assert own_box.exec(project, "python3", "main.py").text == f"{uid} True\n"
        script = "cat sub/data; mkdir out; echo kept >out/model; chmod 700 out; echo x >>sub/data"
        done = own_box.exec(project, "sh", "-c", script)
        assert (done.code, done.text) == (0, "synced\n"), done
        assert (project / "out/model").read_text() == "kept\n"
        save(project / "sub/data", "saved\n")
        shutil.rmtree(project / "out")
        assert own_box.run(project, "pull").code == 0
        assert (project / "out/model").read_text() == "kept\n"
        done = own_box.exec(project, "sh", "-c", "cat sub/data; id -u; rm -r out")
        assert done.text == f"saved\n{uid}\n", done
        (project / "sub/data").unlink()
        assert own_box.exec(project, "ls", "sub").text == ""
        assert own_box.run(project, "clean", "-y").code == 0
        assert not list((own_box.state_dir / "workspaces").iterdir())


class TestWhatIsKept:
    def test_clean_shows_and_removes_layers_and_caches(self, own_box: Box, train: str) -> None:
        project = in_image(own_box, train, '[container]\nkeep = "work"\n')
        fill = 'head -c 3000000 /dev/zero | tee /opt/x "$PIP_CACHE_DIR/y" >/dev/null; echo on'
        assert own_box.exec(project, "sh", "-c", fill).code == 0
        shown = own_box.run(project, "clean", "-n").text
        assert re.search(rf"^layer +3\.\d+ MB in work, begun on {train}$", shown, re.M), shown
        assert re.search(r"^caches +3\.\d+ MB of runs in images$", shown, re.M), shown
        busy = own_box.start(
            project, "exec", "--", "sh", "-c", "echo on; sleep 3023", stdout=subprocess.PIPE
        )
        Tail(busy.stdout).wait_for("on")
        left = own_box.run(project, "clean", "--layers", "--caches", "-y")
        assert left.code == 1, left
        assert "layer work: a run uses it" in left.stderr
        assert "caches: a run uses them" in left.stderr
        assert own_box.run(project, "stop").code == 0
        done = own_box.run(project, "clean", "--layers", "--caches", "-y")
        assert done.code == 0, done
        assert "removed layer work, caches: 6." in done.stderr, done
        assert "workspaces" in os.listdir(own_box.state_dir)
        assert not re.search("^(layer|caches)", own_box.run(project, "clean", "-n").text, re.M)
        assert own_box.exec(project, "ls", "/opt").text == ""


class TestShell:
    def test_the_shell_is_what_the_images_passwd_gives_its_user(self, box: Box, train: str) -> None:
        for user, shell in {"0:0": "/bin/bash", "www-data": "/bin/sh", "77:88": "/bin/sh"}.items():
            project = in_image(box, train, f'[container]\nuser = "{user}"\n')
            with open_terminal(box, project, "shell") as terminal:
                terminal.type('echo "<$SHELL:$0:$(id -u):$(tty)>"; exit 0\n')
                terminal.screen.wait_for(f"<{shell}:{shell}:[0-9]+:/dev/pts/[0-9]+>")
                assert terminal.process.wait(10) == 0


class TestFresh:
    def test_a_container_that_a_run_has_spoiled_is_replaced(self, box: Box, train: str) -> None:
        project = in_image(box, train)
        first = box.run(project, "exec", "--fresh", "--", "sh", "-c", "rm -rf /bin /usr/bin")
        assert first.code == 0, first
        assert box.exec(project, "true").code == 127
        done = box.run(project, "exec", "--fresh", "--", "echo", "whole", "again")
        assert done.text == "whole again\n", done

    def test_it_ends_no_run_that_is_live(self, box: Box, train: str) -> None:
        project = in_image(box, train)
        process = box.start(
            project, "exec", "--", "sh", "-c", "echo on; read x", stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )  # fmt: skip
        Tail(process.stdout).wait_for("on")
        box.run(project, "exec", "--fresh", "--", "true").assert_error("run 1 is live")
        assert process.stdin is not None
        process.stdin.write(b"on\n")
        process.stdin.flush()
        assert process.wait(10) == 0


class TestWhatIsMounted:
    def test_after_a_clean_a_run_sees_its_files(self, own_box: Box, train: str) -> None:
        project = in_image(own_box, train, main="print('here')")
        assert own_box.exec(project, "python3", "main.py").text == "here\n"
        assert own_box.run(project, "clean", "-y").code == 0
        wait_until(lambda: not list((own_box.state_dir / "containers/live").iterdir()))
        assert own_box.exec(project, "python3", "main.py").text == "here\n"

    def test_a_folder_that_was_replaced_is_seen_anew(
        self, box: Box, train: str, tmp_path: Path
    ) -> None:
        data = tmp_path / "data"
        project = in_image(box, train, f'[container]\nmounts = ["{data}:/data"]\n')
        for word in ("first", "second"):
            shutil.rmtree(data, ignore_errors=True)
            data.mkdir()
            (data / "file").write_text(word)
            assert box.exec(project, "cat", "/data/file").text == word


class TestLayouts:
    def test_a_layout_that_was_built_anew_is_what_runs_next(self, box: Box) -> None:
        project = box.project()
        base = debian_base()
        shutil.copytree(base.layout, project / "layout")
        (project / ".devloopignore").write_text("layout/\n")
        (project / "devloop.toml").write_text(f'image = "oci:{project}/layout:latest"\n')
        shown = ("sh", "-c", "echo $FLAVOUR")
        assert box.exec(project, *shown).text == "\n"
        subprocess.run(
            ["umoci", "config", "--image", f"{project}/layout:latest", "--config.env=FLAVOUR=fig"],
            check=True,
        )
        assert box.exec(project, *shown).text == "fig\n"
        shutil.rmtree(project / "layout")
        assert box.exec(project, *shown).text == "fig\n"


class TestBadInput:
    def test_mounts_that_would_hide_what_is_needed(self, box: Box, train: str) -> None:
        for target, words in {
            "/workspace": "would hide the project",
            "/proc/x": "is the kernel's or devloop's own",
            "/dev/shm": "is the kernel's or devloop's own",
            "/run/devloop": "is the kernel's or devloop's own",
            "/etc/passwd": "cannot mount at '/etc/passwd' in the image: it is a file",
        }.items():
            project = in_image(box, train, f'[container]\nmounts = ["/opt:{target}"]\n')
            box.exec(project, "true").assert_error(words)

    def test_an_unknown_image_and_an_unknown_tag(
        self, box: Box, train: str, registry: Registry
    ) -> None:
        project = box.project()
        for name in ("team/none:1", "team/train:none"):
            done = box.run(project, "exec", "--image", registry.name(name), "--", "true")
            done.assert_error(name)

    def test_a_registry_that_is_not_there(self, box: Box) -> None:
        done = box.run(box.project(), "exec", "--image", "127.0.0.1:9/a/b:1", "--", "true")
        done.assert_error("127.0.0.1:9")

    def test_a_folder_that_is_no_layout(self, box: Box) -> None:
        project = box.project()
        (project / "layout").mkdir()
        done = box.run(project, "exec", "--image", "oci:./layout", "--", "true")
        done.assert_error("layout")

    def test_nothing_of_the_project_is_lost_by_a_refusal(self, box: Box, train: str) -> None:
        project = in_image(box, "127.0.0.1:9/a/b:1", main="print('kept')")
        box.exec(project, "python3", "main.py").assert_error("127.0.0.1:9")
        (project / "devloop.toml").write_text(f'image = "{train}"\n')
        assert box.exec(project, "python3", "main.py").text == "kept\n"


class TestUp:
    def test_each_save_runs_in_the_warm_container(self, box: Box, train: str) -> None:
        host = "import socket; print({}, open('/proc/1/comm').read().strip(), flush=True)"
        project = in_image(box, train, main=host.format(1))
        up = Up(box, project, "--", "python3", "main.py")
        up.out.wait_for("^1 ")
        for number in range(2, 6):
            save(project / "main.py", host.format(number))
            up.out.wait_for(f"^{number} ")
        up.leave()

    def test_ctrl_c_reaches_the_program_in_the_container(self, box: Box, train: str) -> None:
        script = "trap 'echo told; exit 3' INT; echo ready; while :; do sleep 0.1; done"
        project = in_image(box, train)
        process = box.start(
            project,
            "exec",
            "--",
            "sh",
            "-c",
            script,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        out = Tail(process.stdout)
        out.wait_for("ready")
        process.send_signal(signal.SIGINT)
        out.wait_for("told")
        assert process.wait(10) == 3


class TestNothingStays:
    def test_after_down_there_is_no_process_no_mount_and_no_container(self, train: str) -> None:
        with open_box() as own:
            project = in_image(own, train)
            hidden = "setsid sh -c 'trap \"\" TERM INT HUP; sleep 3021' >/dev/null 2>&1 & echo $!"
            assert own.exec(project, "sh", "-c", hidden).code == 0
            agent = own.agent()
            family = [agent, *agent.children(recursive=True)]
            assert own.run(project, "down").code == 0
            wait_until(lambda: not any(_lives(process) for process in family))
            assert not mounts_below(own.base)
            assert not list((own.state_dir / "containers/live").glob("*"))

    def test_a_killed_agent_leaves_none_either(self, train: str) -> None:
        with open_box() as own:
            project = in_image(own, train)
            process = own.start(
                project, "exec", "--", "sh", "-c", "echo on; sleep 3022", stdout=subprocess.PIPE
            )
            Tail(process.stdout).wait_for("on")
            agent = own.agent()
            family = [agent, *agent.children(recursive=True)]
            process.kill()
            agent.kill()
            wait_until(lambda: not any(_lives(each) for each in family))
            assert not mounts_below(own.base)
            assert own.exec(project, "echo", "again").text == "again\n"


class TestWhatWasKilled:
    @pytest.mark.parametrize("victim", ["keeper", "first process"])
    def test_a_run_whose_container_was_killed_has_the_reason_in_its_log(
        self, own_box: Box, train: str, victim: str
    ) -> None:
        project = in_image(own_box, train)
        process = own_box.start(
            project, "exec", "--", "sh", "-c", "echo on; sleep 3024", stdout=subprocess.PIPE
        )
        Tail(process.stdout).wait_for("on")
        agent = own_box.agent()
        keeper = next(one for one in agent.children() if _holds(one, "pause"))
        doomed = keeper if victim == "keeper" else _holds(keeper, "pause")
        assert doomed is not None
        doomed.kill()
        assert process.wait(10) == 128 + signal.SIGKILL
        logged = own_box.run(project, "logs")
        said = logged.text + logged.stderr
        assert f"its container has ended: its {victim} was killed" in said, said


class TestImageVerbs:
    def test_pull_ls_inspect_verify_rm(self, own_box: Box, train: str) -> None:
        project = own_box.project()
        assert own_box.run(project, "image", "pull", train).code == 0
        listed = json.loads(own_box.run(project, "image", "ls", "--json").text)
        assert [image["reference"] for image in listed["images"]] == [train]
        details = json.loads(own_box.run(project, "image", "inspect", train, "--json").text)
        assert details["image"]["is_complete"], details
        assert own_box.run(project, "image", "verify").code == 0
        assert own_box.run(project, "image", "rm", train).code == 0
        assert not list((own_box.state_dir / "images/blobs").glob("??/*"))
        own_box.run(project, "image", "inspect", train).assert_error(train)

    def test_a_layout_and_an_index_are_named_alike_for_every_verb(
        self, own_box: Box, tmp_path: Path
    ) -> None:
        project = own_box.project()
        write_layout(project / "lay", [Image([layer({"etc/name": b"x"})])])
        (project / "devloop.toml").write_text('image = "oci:./lay"\n')
        for words in (["oci:./lay"], []):
            assert own_box.run(project, "image", "pull", *words).code == 0
            done = own_box.run(project, "image", "inspect", *words)
            assert done.text.startswith(f"oci:{project}/lay\n"), done
            pushed = own_box.run(project, "image", "push", *words, "--to", f"file://{tmp_path}/t")
            assert pushed.code == 0, pushed
            assert own_box.run(project, "image", "rm", *words).code == 0
        own_box.run(project, "image", "pull")
        index = own_box.run(project, "image", "ls").text.splitlines()[1].split()[2]
        assert own_box.run(project, "image", "inspect", index).text == done.text
        assert own_box.run(project, "image", "rm", index).code == 0
        own_box.run(project, "image", "inspect", index).assert_error(index)

    def test_what_a_container_needs_stays_until_it_has_ended(self, own_box: Box) -> None:
        project = in_image(own_box, "oci:./lay")
        write_layout(project / "lay", [Image([layer(small_root("sh"))])])
        assert own_box.exec(project, "sh", "-c", "exit 0").code == 0
        removed = own_box.run(project, "image", "rm")
        assert "`devloop image gc`" in removed.stderr, removed
        assert own_box.exec(project, "sh", "-c", "echo still").text == "still\n"
        own_box.run(project, "image", "rm")
        own_box.run(project, "down")
        assert own_box.run(project, "image", "gc").code == 0
        assert not list((own_box.state_dir / "images/blobs").glob("??/*"))

    def test_an_index_of_two_images_is_no_name_to_remove_one_by(self, own_box: Box) -> None:
        project = own_box.project()
        for name in ("a", "b"):
            write_layout(project / name, [Image([layer({"etc/name": b"x"})])])
            assert own_box.run(project, "image", "pull", f"oci:./{name}").code == 0
        listed = json.loads(own_box.run(project, "image", "ls", "--json").text)["images"]
        own_box.run(project, "image", "rm", listed[0]["index_digest"]).assert_error("index of oci:")

    def test_an_empty_reference_is_refused_with_a_hint_that_fits(self, own_box: Box) -> None:
        done = own_box.run(own_box.project(), "image", "pull", "")
        done.assert_error("empty", code=2)
        assert "variable" in done.stderr

    def test_a_flipped_bit_is_found_named_and_healed_by_a_pull(
        self, own_box: Box, train: str
    ) -> None:
        project = own_box.project()
        own_box.run(project, "image", "pull", train)
        blobs = own_box.state_dir / "images/blobs"
        victim = max(blobs.glob("??/*"), key=lambda path: path.stat().st_size)
        good = victim.read_bytes()
        victim.chmod(0o644)
        victim.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
        found = own_box.run(project, "image", "verify")
        assert found.code != 0
        assert victim.name in (found.text + found.stderr).replace("/", ""), found
        assert "`devloop image pull`" in found.stderr, found
        assert own_box.run(project, "image", "pull", train).code == 0
        assert own_box.run(project, "image", "verify").code == 0
        assert victim.read_bytes() == good


class TestWhereNoImageCanBeMounted:
    @pytest.fixture
    def weak(self) -> Iterator[Box]:
        """Its images lie on an overlay, above which there can be none."""
        with open_box() as weak:
            parts = {name: weak.base / "overlay" / name for name in ("lower", "upper", "work")}
            place = weak.state_dir / "images"
            for folder in (*parts.values(), place):
                folder.mkdir(parents=True, mode=0o700)
            options = ",".join(f"{name}dir={folder}" for name, folder in parts.items())
            subprocess.run(
                ["mount", "-t", "overlay", "overlay", "-o", options, str(place)], check=True
            )
            try:
                yield weak
                weak.run(weak.base, "down")
            finally:
                subprocess.run(["umount", "--lazy", str(place)], check=True)

    def test_runs_have_a_copy_which_is_made_when_the_image_comes_and_goes_with_it(
        self, box: Box, weak: Box, tmp_path: Path
    ) -> None:
        files = {"etc/name": b"it\n", **small_root("cat")}
        write_layout(tmp_path / "lay", [Image([layer(files)])])
        name, tier = f"oci:{tmp_path}/lay", f"file://{tmp_path}/tier"
        for words in (("pull", name), ("push", name, "--to", tier)):
            assert box.run(box.project(), "image", *words).code == 0
        project = in_image(weak, name, f'store = ["{tier}"]\n')
        assert weak.exec(project, "cat", "/etc/name").text == "it\n"
        copies = weak.state_dir / "images/unpacked"
        assert weak.run(project, "image", "rm").code == 0
        assert weak.exec(project, "cat", "/etc/name").text == "it\n"
        weak.run(project, "down")
        assert len(list(copies.iterdir())) == 1
        assert weak.run(project, "image", "rm").code == 0
        assert not list(copies.iterdir())


class TestDoctor:
    def test_it_says_what_images_and_containers_can_do_here(self, box: Box) -> None:
        done = box.run(box.project(), "doctor")
        assert done.code == 0, done
        assert re.search(r"^[✓!] images +mounted as (erofs|fuse)\+overlay", done.text, re.M), done
        assert re.search(r"^✓ lazy +.*pyfuse3", done.text, re.M), done
        assert re.search(r"^[✓!] containers +(crun|runc)", done.text, re.M), done


class TestTiers:
    @pytest.fixture
    def tier(self, tmp_path: Path, box: Box, train: str) -> str:
        """A folder that serves the image."""
        project = box.project()
        box.run(project, "image", "pull", train)
        pushed = box.run(project, "image", "push", train, "--to", f"file://{tmp_path}/tier")
        assert pushed.code == 0, pushed
        return f"file://{tmp_path}/tier"

    def test_a_box_that_has_never_seen_the_image_fetches_what_is_touched(
        self, own_box: Box, train: str, tier: str
    ) -> None:
        project = in_image(own_box, train, f'store = ["{tier}"]\n')
        assert own_box.exec(project, "cat", "/etc/debian_version").text.startswith("12")
        blobs = [path.stat().st_size for path in (own_box.state_dir / "images/blobs").glob("??/*")]
        assert 0 < sum(blobs) < 20_000_000
        listed = json.loads(own_box.run(project, "image", "ls", "--json").text)
        assert [image["is_complete"] for image in listed["images"]] == [False]

    def test_what_a_start_touched_elsewhere_comes_before_it_is_asked_for(
        self, box: Box, own_box: Box, train: str, tmp_path: Path
    ) -> None:
        script = "import json, sqlite3, decimal; print('done')"
        first = in_image(box, train, main=script)
        token = "token-of-mine"
        assert box.exec(first, "python3", "main.py", token).text == "done\n"

        def touched(here: Box, project: Path) -> list[dict[str, Any]]:
            described = here.run(project, "image", "inspect", "--json").text
            profiles = json.loads(described)["profiles"]
            return [p for p in profiles if (p["program"], p["arguments"]) == ("python3", 2)]

        wait_until(lambda: touched(box, first))
        assert 20 < touched(box, first)[0]["files"] < 500
        tier = f"file://{tmp_path}/tier"
        assert box.run(first, "image", "push", "--to", tier).code == 0
        published = list((tmp_path / "tier/profiles").iterdir())
        assert published
        assert not any(token.encode() in path.read_bytes() for path in published)
        second = in_image(own_box, train, f'store = ["{tier}"]\n', main=script)
        assert own_box.exec(second, "true").code == 0  # the profile of another command is used
        assert touched(own_box, second) == touched(box, first)
        assert own_box.exec(second, "python3", "main.py").text == "done\n"

    def test_a_file_that_no_tier_has_any_more_is_an_error_of_its_reader(
        self, box: Box, own_box: Box, train: str, tier: str
    ) -> None:
        victim = "/usr/share/perl5/Debconf/Config.pm"
        digest = digest_of(box.exec(in_image(box, train), "cat", victim).stdout).hex()
        (Path(tier.removeprefix("file://")) / "blobs" / digest[:2] / digest[2:]).unlink()
        project = in_image(own_box, train, f'store = ["{tier}"]\n')
        done = own_box.exec(project, "cat", victim)
        assert done.code == 1, done
        assert "Input/output error" in done.stderr, done
        assert victim.lstrip("/") in done.stderr.replace(f"cat: {victim}", ""), done
        assert digest[:12] in done.stderr, done
        assert own_box.exec(project, "echo", "others", "run").text == "others run\n"
        assert own_box.run(project, "image", "verify").code == 0


def _with_env(registry: Registry, variable: str, name: str) -> str:
    """The Debian image with one more variable in its configuration."""
    from tests.images.registry import skopeo

    folder = registry.folder / name.replace("/", "-").replace(":", "-")
    skopeo(
        "copy",
        "--src-tls-verify=false",
        f"docker://{registry.name('team/train:1')}",
        f"oci:{folder}:x",
    )
    subprocess.run(
        ["umoci", "config", "--image", f"{folder}:x", f"--config.env={variable}"], check=True
    )
    registry.push(f"oci:{folder}:x", name)
    return registry.name(name)


def _holds(process: psutil.Process, name: str) -> psutil.Process | None:
    return next((one for one in process.children() if one.name() == name), None)


def _lives(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False

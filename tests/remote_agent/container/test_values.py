"""What is decided about containers before any of them starts: plain values."""

from __future__ import annotations

import json
import platform
import signal
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from devloop.cafs.ids import Extent, Ids
from devloop.remote_agent.container.bundle import Stage, oci_config
from devloop.remote_agent.container.cgroups import victim_score
from devloop.remote_agent.container.devices import Devices, Node, find_devices, parse_ldconfig
from devloop.remote_agent.container.pause import NoPause, pause_program
from devloop.remote_agent.container.rootless import Rootless
from devloop.remote_agent.container.seccomp import NoFilter, kernel_filter, oci_profile
from devloop.remote_agent.container.spec import (
    BadImageConfig,
    ContainerSpec,
    ExtraMount,
    FolderRoot,
    ImageConfig,
    workspace_target,
)
from devloop.remote_agent.container.users import NoSuchUser, UsersUnreadable, find_user

SPEC = ContainerSpec(FolderRoot(Path("/image")), ImageConfig(), Path("/box/files"))


def config_of(spec: ContainerSpec, **changes: object) -> dict[str, object]:
    options: dict[str, object] = {
        "program": Path("/devloop/zygote"),
        "devices": Devices(),
        "seccomp": None,
        "hostname": "box",
        "cgroup": "/devloop-1",
        **changes,
    }
    return oci_config(spec, Stage(Path("/stage")), **options)  # type: ignore[arg-type]


def mounts_of(config: dict[str, object]) -> dict[str, dict[str, object]]:
    mounts: list[dict[str, object]] = config["mounts"]  # type: ignore[assignment]
    return {str(mount["destination"]): mount for mount in mounts}


def test_every_mount_but_dev_is_nosuid_and_nodev() -> None:
    spec = ContainerSpec(
        *(FolderRoot(Path("/image")), ImageConfig(), Path("/box/files")),
        mounts=(ExtraMount(Path("/data"), "/mnt", read_only=True),),
        caches=Path("/caches"),
    )
    config = config_of(
        spec,
        devices=Devices(files=((Path("/lib/libcuda.so.1"), "/run/devloop/driver/libcuda.so.1"),)),
    )
    for target, mount in mounts_of(config).items():
        options = mount["options"]
        assert isinstance(options, list)
        assert "nosuid" in options, target
        assert "nodev" in options or target in ("/dev", "/dev/pts"), target


def test_the_first_process_has_no_capability() -> None:
    process = config_of(SPEC)["process"]
    assert isinstance(process, dict)
    assert set(map(tuple, process["capabilities"].values())) == {()}
    assert process["noNewPrivileges"] is True
    assert process["args"] == ["/run/devloop/pause"]


def test_an_isolated_network_is_one_namespace_more() -> None:
    kinds = []
    for network in ("host", "isolated"):
        spec = ContainerSpec(SPEC.root, SPEC.image, SPEC.workspace, network=network)  # type: ignore[arg-type]
        linux = config_of(spec)["linux"]
        assert isinstance(linux, dict)
        kinds.append({entry["type"] for entry in linux["namespaces"]})
    assert kinds[0] == {"pid", "mount", "ipc", "uts"}
    assert kinds[1] - kinds[0] == {"network"}


def test_in_a_user_namespace_nothing_is_asked_for_that_it_does_not_have() -> None:
    alone, others = Ids([Extent(0, 1000, 1)]), Ids([Extent(0, 1000, 1), Extent(1, 100_000, 65_536)])
    gpus = Devices((Node("/dev/nvidia0", 195, 0, 0o666, on_box="/dev/gpus/nvidia0"),))
    for ids, has_tty in ((alone, False), (others, True)):
        config = config_of(SPEC, devices=gpus, rootless=Rootless(ids, ids))
        assert not {"devices", "cgroupsPath"} & set(config["linux"])  # type: ignore[call-overload]
        mounts = mounts_of(config)
        assert ("gid=5" in mounts["/dev/pts"]["options"]) == has_tty  # type: ignore[operator]
        assert (mounts["/sys"]["type"], mounts["/sys"]["source"]) == ("bind", "/sys")
        assert mounts["/dev/nvidia0"]["source"] == "/dev/gpus/nvidia0"
    isolated = replace(SPEC, network="isolated")
    assert (
        mounts_of(config_of(isolated, rootless=Rootless(alone, alone)))["/sys"]["type"] == "sysfs"
    )


def test_the_workspace_is_at_the_working_directory() -> None:
    for given, wanted in (
        ("", "/workspace"),
        ("/", "/workspace"),
        ("/usr", "/workspace"),
        ("/app", "/app"),
        ("app/", "/app"),
        ("//app//x", "/app/x"),
        ("/../../app", "/app"),
        ("/app/../..", "/workspace"),
        ("/usr/src/app", "/usr/src/app"),
        *((path, "/workspace") for path in ("/proc/self", "/sys/x", "/dev/shm", "/usr/bin")),
        ("/run/devloop/caches", "/workspace"),
        ("/run/app", "/run/app"),
    ):
        assert workspace_target(ImageConfig(working_dir=given)) == wanted, given
    assert "/app" in mounts_of(
        config_of(ContainerSpec(SPEC.root, ImageConfig(working_dir="/app"), SPEC.workspace))
    )


def test_runs_go_before_the_spawner_when_memory_is_short() -> None:
    """A thousandth stands for a thousandth of the limit: together at least what a spawner takes."""
    assert victim_score(0) == 0
    assert victim_score(1 << 20) == 1000
    for limit_bytes in (100 << 20, 1 << 30, 64 << 30, 2 << 40):
        assert victim_score(limit_bytes) * limit_bytes // 1000 >= 64 << 20


def test_an_images_config_is_read() -> None:
    config = {
        "config": {
            "Env": ["A=1", "B=x=y", "=bad"],
            "Entrypoint": ["/e"],
            "Cmd": ["c"],
            "WorkingDir": "/w",
            "User": "u:g",
            "StopSignal": "SIGQUIT",
        }
    }
    image = ImageConfig.parse(json.dumps(config).encode())
    assert image.env == (("A", "1"), ("B", "x=y"))
    assert image.command == ("/e", "c")
    assert (image.working_dir, image.user, image.stop_signal) == ("/w", "u:g", signal.SIGQUIT)
    for empty in (b"{}", b'{"config": null}', b'{"config": {"Env": null, "Cmd": null}}'):
        assert ImageConfig.parse(empty) == ImageConfig()


@pytest.mark.parametrize(
    "data",
    [b"", b"[]", b"{", b'{"config": {"Cmd": "ls"}}', b'{"config": {"Cmd": [1]}}',
     b'{"config": {"User": 3}}', b'{"config": {"WorkingDir": "/a\\u0000b"}}',
     b'{"config": {"StopSignal": "SIGNONE"}}', b'{"config": {"StopSignal": "99"}}',
     b'{"config": {"StopSignal": "SIGRTMAX+1"}}', b'{"config": {"StopSignal": 15}}',
     b'{"config": {"Env": "PATH=/bin"}}', b'{"config": {"Env": [1]}}'],
)  # fmt: skip
def test_what_is_no_config_is_refused(data: bytes) -> None:
    with pytest.raises(BadImageConfig):
        ImageConfig.parse(data)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        *(("SIGTERM", 15), ("term", 15), ("15", 15), ("SIGUSR1", 10), ("", 0)),
        *(("SIGRTMIN+3", signal.SIGRTMIN + 3), ("RTMAX-1", signal.SIGRTMAX - 1)),
    ],
)
def test_a_stop_signal_is_named_as_docker_names_it(text: str, number: int) -> None:
    config = json.dumps({"config": {"StopSignal": text}}).encode()
    assert ImageConfig.parse(config).stop_signal == number


def test_users_are_those_of_the_image(tmp_path: Path) -> None:
    etc = tmp_path / "etc"
    etc.mkdir()
    (etc / "passwd").write_text("root:x:0:0::/root:/bin/sh\nbroken:x:no:1::/:\nann:x:5:6::/h:\n")
    (etc / "group").write_text("root:x:0:\nann:x:6:\nvideo:x:44:ann,bob\nbad:x:z:ann\n")
    assert find_user(tmp_path, "") == (0, 0, [], "/root", "/bin/sh")
    assert find_user(tmp_path, "ann") == (5, 6, [44], "/h", "/bin/sh")
    assert find_user(tmp_path, "5") == (5, 6, [44], "/h", "/bin/sh")
    assert find_user(tmp_path, "ann:video") == (5, 44, [], "/h", "/bin/sh")
    assert find_user(tmp_path, "77:88") == (77, 88, [], "/", "/bin/sh")
    for user in ("bob", "broken", "ann:nobody", "4294967295", "-1", "٣"):
        with pytest.raises(NoSuchUser):
            find_user(tmp_path, user)


def test_a_row_that_no_program_could_use_is_none(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    rows = "root:x:0:0::/ro\0ot:/bin/sh\nann:x:5:6:a\x85b:/h:\nroot:x:0:0::/later:\n"
    (tmp_path / "etc/passwd").write_text(rows)
    assert find_user(tmp_path, "").home == "/later"
    assert find_user(tmp_path, "ann").home == "/h"


@pytest.mark.parametrize("name", ["passwd", "group"])
def test_a_passwd_that_is_no_file_is_refused_at_once(tmp_path: Path, name: str) -> None:
    (tmp_path / "etc").mkdir()
    subprocess.run(["mkfifo", tmp_path / "etc" / name], check=True)
    with pytest.raises(UsersUnreadable, match=f"/etc/{name} is no file"):
        find_user(tmp_path, "3")


def test_a_shell_is_one_that_the_image_has(tmp_path: Path) -> None:
    for folder in ("etc", "bin", "usr/bin"):
        (tmp_path / folder).mkdir(parents=True)
    for name in ("bin/ash", "usr/bin/nologin"):
        (tmp_path / name).touch(mode=0o755)
    (tmp_path / "bin/text").touch(mode=0o644)
    for shell, found in {
        **dict.fromkeys(["/bin/ash"], "/bin/ash"),
        **dict.fromkeys(["", "ash", "/bin", "/bin/bash", "/bin/text"], "/bin/sh"),
        "/usr/bin/nologin": "/bin/sh",
    }.items():
        (tmp_path / "etc/passwd").write_text(f"root:x:0:0::/root:{shell}\n")
        assert find_user(tmp_path, "").shell == found


def test_no_link_of_an_image_leads_to_the_users_of_the_box(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "etc").mkdir(parents=True)
    (tmp_path / "passwd").write_text("box:x:5:6::/h:\n")
    (root / "etc/passwd").symlink_to(tmp_path / "passwd")
    with pytest.raises(NoSuchUser):
        find_user(root, "box")
    (root / "passwd").write_text("ann:x:5:6::/h:\n")
    (root / "etc/passwd").unlink()
    (root / "etc/passwd").symlink_to("/passwd")
    assert find_user(root, "ann") == (5, 6, [], "/h", "/bin/sh")


def test_a_box_without_a_gpu_gives_nothing(tmp_path: Path) -> None:
    assert find_devices(tmp_path) == Devices()


def test_a_cdi_specification_says_it_all(tmp_path: Path) -> None:
    folder = tmp_path / "etc/cdi"
    folder.mkdir(parents=True)
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/nvidia0").symlink_to("/dev/null")
    spec = {
        "cdiVersion": "0.5.0",
        "kind": "nvidia.com/gpu",
        "devices": [
            {"name": "0", "containerEdits": {"deviceNodes": [{"path": "/dev/nvidia0"}]}},
            {"name": "all", "containerEdits": {"deviceNodes": [{"path": "/dev/nvidia0"}]}},
        ],
        "containerEdits": {
            "env": ["NVIDIA_VISIBLE_DEVICES=void"],
            "mounts": [{"hostPath": "/lib/libcuda.so", "containerPath": "/usr/lib/libcuda.so"}],
        },
    }
    (folder / "nvidia.json").write_text(json.dumps(spec))
    (folder / "broken.json").write_text("{")
    found = find_devices(tmp_path)
    assert [node.path for node in found.nodes] == ["/dev/nvidia0"]
    assert found.nodes[0].major == 1  # of /dev/null, which stands in for it
    assert found.files == ((Path("/lib/libcuda.so"), "/usr/lib/libcuda.so"),)
    assert found.env == (("NVIDIA_VISIBLE_DEVICES", "void"),)


def test_the_drivers_libraries_are_found_in_the_linkers_cache() -> None:
    lines = """\
2 libs found in cache
\tlibcuda.so.1 (libc6,x86-64) => /lib/x86_64-linux-gnu/libcuda.so.1
\tlibcuda.so.1 (libc6) => /lib/i386-linux-gnu/libcuda.so.1
\tlibnvidia-ml.so.1 (libc6,x86-64) => /lib/x86_64-linux-gnu/libnvidia-ml.so.1
\tlibcudart.so.12 (libc6,x86-64) => /usr/local/cuda/lib64/libcudart.so.12
\tlibc.so.6 (libc6,x86-64) => /lib/x86_64-linux-gnu/libc.so.6
""".splitlines()
    assert [path.name for path in parse_ldconfig(lines)] == ["libcuda.so.1", "libnvidia-ml.so.1"]


def test_a_device_node_is_what_the_runtime_wants() -> None:
    linux = config_of(SPEC, devices=Devices((Node("/dev/nvidia0", 195, 0),)))["linux"]
    assert isinstance(linux, dict)
    assert linux["devices"][0] | {"type": "c", "major": 195, "minor": 0} == linux["devices"][0]


def test_the_pause_program_waits_for_the_end_of_its_input(tmp_path: Path) -> None:
    path = tmp_path / "pause"
    path.write_bytes(pause_program(platform.machine()))
    path.chmod(0o755)
    process = subprocess.Popen([path], stdin=subprocess.PIPE)
    assert process.stdin is not None
    process.stdin.write(b"some noise")
    process.stdin.flush()
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.05)
    process.stdin.close()
    assert process.wait(10) == 0


def test_there_is_a_pause_program_for_both_processors_and_no_other() -> None:
    assert pause_program("x86_64")[18:20] == b"\x3e\x00"
    assert pause_program("aarch64")[18:20] == b"\xb7\x00"
    with pytest.raises(NoPause):
        pause_program("m68k")


def test_namespaces_and_unknown_calls_are_refused() -> None:
    profile = oci_profile("x86_64")
    named = {name for rule in profile["syscalls"] for name in rule["names"] if "args" not in rule}
    allowed = {
        name
        for rule in profile["syscalls"]
        for name in rule["names"]
        if rule["action"] == "SCMP_ACT_ALLOW"
    }
    for name in ("mount", "unshare", "setns", "bpf", "keyctl", "init_module", "io_uring_setup"):
        assert name not in allowed, name
    assert "clone" not in named  # only with conditions
    assert profile["defaultAction"] == "SCMP_ACT_ERRNO"


def test_the_kernels_filter_is_whole_instructions() -> None:
    try:
        program = kernel_filter("x86_64" if platform.machine() == "x86_64" else "aarch64")
    except NoFilter:
        pytest.skip("needs libseccomp")
    assert len(program) % 8 == 0
    assert 0 < len(program) // 8 <= 4096

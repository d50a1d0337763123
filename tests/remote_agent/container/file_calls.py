"""What file system calls give, one after the other: a program for any Python, printed as JSON.

    python3 file_calls.py make FOLDER     the trees that the calls are tried on, a folder a call
    python3 file_calls.py try FOLDER      the calls: {"name": [what each gave]}

An errno stands for the call that raised it. Values that no two file systems share (inode numbers,
times of day) are compared here, and what is printed is how they compare.
"""

import ctypes
import errno
import fcntl
import json
import mmap
import os
import socket
import stat
import struct
import sys

LONG = "n" * 255
MANY = 150
DATA = b"0123456789" * 1_000
MTIME_S = 1_600_000_000
XATTR = {"user.image": b"value"}

# A path, and a file's bytes, a mode for a folder, or ("link" or "symlink", target).
STANDARD = {
    "dir": 0o755,
    "dir/deep": 0o755,
    "dir/deep/far": b"far",
    "dir/inner": b"inner",
    "empty": 0o755,
    "file": DATA,
    "hard1": b"hard",
    "hard2": ("link", "hard1"),
    "link": ("symlink", "file"),
    "other": b"other",
}
MORE = {
    "readdir_while_unlinking": {f"dir/many{n:03}": b"x" for n in range(MANY)},
    "long_names": {LONG: b"long"},
    "names_of_any_bytes": {"two words\n": b"1", "\u00fc\U0001f600": b"2"},
    "programs": {"run": b"#!/bin/sh\necho ran\n"},
}
CALLS = {}


def trees():
    """Every path of every call's tree, parents first."""
    found = {}
    for name in CALLS:
        found[name] = 0o755
        for path, what in {**STANDARD, **MORE.get(name, {})}.items():
            if isinstance(what, tuple) and what[0] == "link":
                what = ("link", name + "/" + what[1])
            found[name + "/" + path] = what
    return found


def make(folder):
    for path, what in trees().items():
        at = os.path.join(folder, path)
        if isinstance(what, int):
            os.makedirs(at, what)
        elif isinstance(what, bytes):
            with open(at, "xb") as file:  # noqa: PTH123
                file.write(what)
            os.chmod(at, 0o755 if what.startswith(b"#!") else 0o644)
            for key, value in XATTR.items():
                os.setxattr(at, key, value)
            os.utime(at, (MTIME_S, MTIME_S))
        elif what[0] == "link":
            os.link(os.path.join(folder, what[1]), at)
        else:
            os.symlink(what[1], at)


def call(function):
    CALLS[function.__name__] = function
    return function


def gave(action, *arguments, **options):
    try:
        found = action(*arguments, **options)
    except OSError as error:
        return errno.errorcode[error.errno]
    return found.decode("utf-8", "backslashreplace") if isinstance(found, bytes) else found


def read(path):
    with open(path, "rb") as file:  # noqa: PTH123
        return file.read()


def head(path):
    return read(path)[:40].decode("utf-8", "backslashreplace")


def write(path, data, mode="r+b"):
    with open(path, mode) as file:  # noqa: PTH123
        file.write(data)


def opened(path, flags=os.O_RDONLY):
    return os.open(path, flags | os.O_CLOEXEC, 0o644)


def shape(path):
    found = os.lstat(path)
    return [stat.filemode(found.st_mode), found.st_uid, found.st_gid, found.st_size]


libc = ctypes.CDLL(None, use_errno=True)


def raw(name, *arguments):
    found = getattr(libc, name)(*arguments)
    if found < 0:
        raise OSError(ctypes.get_errno(), name)
    return found


NOREPLACE, EXCHANGE = 1, 2


def renameat2(old, new, flags):
    return raw("renameat2", -100, os.fsencode(old), -100, os.fsencode(new), flags)


# ---------------------------------------------------------------------- renaming


@call
def rename_a_directory():
    yield gave(os.rename, "dir", "moved")
    yield sorted(os.listdir("moved")), head("moved/inner"), head("moved/deep/far")
    yield gave(os.stat, "dir")
    write("moved/inner", b"INNER")
    yield gave(os.rename, "moved", "empty/again")
    yield head("empty/again/inner"), sorted(os.listdir("empty/again/deep"))
    yield gave(os.mkdir, "dir"), os.listdir("dir")
    yield gave(os.rename, "empty/again/deep", "dir/deep"), head("dir/deep/far")


@call
def rename_a_directory_that_is_in_use():
    fd, home = opened("dir", os.O_DIRECTORY), os.getcwd()
    os.chdir("dir")
    os.rename("../dir", "../moved")
    yield os.getcwd() == home + "/moved", head("inner")
    os.chdir(home)
    yield sorted(os.listdir(fd))
    with os.fdopen(os.open("inner", os.O_RDONLY, dir_fd=fd), "rb") as file:
        yield file.read().decode()
    yield gave(os.close, os.open("new", os.O_CREAT | os.O_WRONLY, dir_fd=fd))
    yield sorted(os.listdir("moved"))


@call
def rename_over():
    number = os.stat("file").st_ino
    yield gave(os.rename, "file", "other"), head("other"), os.stat("other").st_ino == number
    yield gave(os.rename, "other", "dir"), gave(os.rename, "dir", "other")
    yield gave(os.rename, "empty", "dir"), gave(os.rename, "dir", "dir/deep/x")
    yield gave(os.rename, "dir/deep", "empty"), sorted(os.listdir("empty")), os.listdir("dir")
    yield gave(os.rename, "hard1", "hard2"), sorted(os.listdir("."))
    yield gave(os.rename, "link", "dir/inner"), os.readlink("dir/inner")
    yield gave(os.rename, "nothing", "x"), gave(os.rename, "other", "nowhere/x")


@call
def rename_with_flags():
    yield gave(renameat2, "file", "other", NOREPLACE), gave(renameat2, "file", "new", NOREPLACE)
    yield gave(renameat2, "new", "other", EXCHANGE), head("new"), head("other")
    yield gave(renameat2, "dir", "empty", EXCHANGE), os.listdir("dir"), sorted(os.listdir("empty"))
    yield gave(renameat2, "new", "dir", EXCHANGE), os.listdir("new"), head("dir")


# ---------------------------------------------------------------------- links and numbers


@call
def hard_links():
    before = os.stat("hard1")
    yield before.st_nlink, before.st_ino == os.stat("hard2").st_ino
    write("hard1", b"HARD")
    yield head("hard2"), os.stat("hard2").st_nlink, os.stat("hard2").st_ino == before.st_ino
    yield gave(os.link, "hard1", "hard3"), os.stat("hard2").st_nlink
    yield gave(os.unlink, "hard1"), os.stat("hard3").st_nlink
    os.chmod("hard3", 0o600)
    yield shape("hard2")
    yield gave(os.unlink, "hard2"), os.stat("hard3").st_nlink, head("hard3")


@call
def link_what_is_there():
    yield gave(os.link, "file", "new"), os.stat("file").st_nlink
    write("new", b"NEW")
    yield head("file"), os.stat("file").st_ino == os.stat("new").st_ino
    yield gave(os.link, "dir", "x"), gave(os.link, "file", "other"), gave(os.link, "no", "x")
    yield gave(os.link, "link", "linked", follow_symlinks=False), os.readlink("linked")
    yield gave(os.rename, "file", "new"), sorted(os.listdir("."))  # two names of one file


@call
def numbers_stay():
    names = ("file", "dir", "link", "dir/inner")
    before = {name: os.lstat(name) for name in names}
    write("file", b"x")
    os.chmod("dir", 0o700)
    os.utime("link", (1, 1), follow_symlinks=False)
    os.rename("dir/inner", "inner")
    for name, path in zip(names, ("file", "dir", "link", "inner"), strict=True):
        after = os.lstat(path)
        yield name, after.st_ino == before[name].st_ino, after.st_dev == before[name].st_dev
    listed = {entry.name: entry.inode() for entry in os.scandir(".")}
    yield [name for name in listed if listed[name] != os.lstat(name).st_ino]
    yield len({os.lstat(name).st_dev for name in listed})


@call
def numbers_of_links_of_directories():
    yield os.stat("dir").st_nlink, os.stat("empty").st_nlink
    os.mkdir("dir/more")
    yield os.stat("dir").st_nlink


@call
def symbolic_links():
    yield os.readlink("link"), os.lstat("link").st_size, shape("link")[0]
    yield gave(os.symlink, "x" * 4095, "long"), gave(os.symlink, "x" * 4096, "longer")
    yield gave(os.symlink, "b", "a"), gave(os.symlink, "a", "b"), gave(os.open, "a", os.O_RDONLY)
    yield gave(os.open, "link", os.O_RDONLY | os.O_NOFOLLOW), gave(os.open, "link/x", os.O_RDONLY)
    write("link", b"through")
    yield head("file")[:7], gave(os.unlink, "file"), gave(os.stat, "link"), gave(os.rmdir, "link")
    for number in range(45):
        os.symlink(f"chain{number + 1}", f"chain{number}")
    os.mkdir("chain45")
    yield gave(os.stat, "chain0"), stat.S_ISDIR(os.stat("chain10").st_mode)


# ---------------------------------------------------------------------- attributes


@call
def xattrs():
    yield gave(os.getxattr, "file", "user.image"), gave(os.listxattr, "file")
    yield gave(os.getxattr, "file", "user.none"), gave(os.removexattr, "file", "user.none")
    yield gave(os.setxattr, "file", "user.a", b"1"), sorted(os.listxattr("file"))
    yield gave(os.setxattr, "file", "user.a", b"2", os.XATTR_CREATE)
    yield gave(os.setxattr, "file", "user.b", b"2", os.XATTR_REPLACE)
    yield gave(os.setxattr, "file", "user.a", b"3", os.XATTR_REPLACE)
    yield gave(os.removexattr, "file", "user.image"), os.listxattr("file"), head("file")[:4]
    yield gave(os.setxattr, "dir", "user.d", b"d"), os.listxattr("dir"), os.listdir("dir")[:0]
    yield gave(os.setxattr, "link", "user.l", b"l", follow_symlinks=False)
    yield (
        gave(os.setxattr, "file", "user." + "n" * 256, b""),
        gave(os.setxattr, "file", "odd.a", b""),
    )
    yield gave(os.setxattr, "hard1", "user.h", b"h"), gave(os.getxattr, "hard2", "user.h")
    yield gave(os.setxattr, "file", "user.large", b"x" * 70_000)


@call
def modes_and_owners():
    yield shape("file"), gave(os.chmod, "file", 0o4751), shape("file"), head("file")[:4]
    yield gave(os.chown, "file", 5, 6), shape("file")  # which drops the setuid bit
    yield gave(os.chmod, "dir", 0o2770), gave(os.chown, "dir", 7, 8), shape("dir")[:3]
    yield gave(os.mkdir, "dir/made"), shape("dir/made")[:3]  # the group is its folder's
    yield gave(os.lchown, "link", 9, 9), shape("link")[:3], shape("file")[:3]
    fd = opened("other")
    os.fchmod(fd, 0o604)
    os.fchown(fd, 1, 2)
    yield shape("other")
    old = os.umask(0o077)
    write("masked", b"", "xb")
    os.umask(old)
    yield shape("masked"), os.access("masked", os.X_OK), os.access("dir", os.X_OK)
    yield gave(os.chmod, "nothing", 0o600), gave(os.chown, "nothing", 1, 1)


@call
def times():
    exact = (1_234_567_890_123_456_789, 1_345_678_901_987_654_321)
    yield os.stat("file").st_mtime_ns == MTIME_S * 10**9, head("file")[:4]
    for name in ("file", "dir", "link"):
        yield gave(os.utime, name, ns=exact, follow_symlinks=False)
        yield os.lstat(name).st_mtime_ns == exact[1], os.lstat(name).st_atime_ns in (exact[0],)
    fd = opened("other")
    os.utime(fd, ns=exact)
    yield os.fstat(fd).st_mtime_ns == exact[1], os.stat("other").st_mtime_ns == exact[1]
    yield gave(os.utime, "file", ns=(-1_000_000_001, -999_999_999)), os.stat("file").st_mtime_ns
    write("file", b"x")
    yield os.stat("file").st_mtime_ns > exact[1], os.stat("file").st_ctime_ns > exact[1]
    before = os.stat("dir").st_mtime_ns
    write("dir/new", b"", "xb")
    yield os.stat("dir").st_mtime_ns > before


# ---------------------------------------------------------------------- bytes


@call
def temporary_files():
    here = opened(".", os.O_DIRECTORY)
    fd = os.open(".", os.O_TMPFILE | os.O_RDWR, 0o640)
    yield os.write(fd, b"unnamed"), os.fstat(fd).st_nlink, sorted(os.listdir("."))
    yield gave(os.link, f"/proc/self/fd/{fd}", "named", src_dir_fd=here, follow_symlinks=True)
    yield head("named"), os.stat("named").st_nlink, shape("named")
    yield os.write(fd, b" more"), head("named")
    exclusive = gave(os.open, "dir", os.O_TMPFILE | os.O_EXCL | os.O_RDWR, 0o600)
    yield isinstance(exclusive, int)
    yield gave(os.link, f"/proc/self/fd/{exclusive}", "x", src_dir_fd=here, follow_symlinks=True)


@call
def mapped_memory():
    with open("file", "r+b") as file, mmap.mmap(file.fileno(), 0) as memory:  # noqa: PTH123
        memory[:4] = b"MAPS"
        memory.flush()
        yield head("file")[:6], os.pread(file.fileno(), 4, 0).decode()
        write("file", b"PUTS")
        yield memory[:4].decode()
    with open("other", "rb") as file:  # noqa: PTH123
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY) as memory:
            memory[:2] = b"!!"
            yield head("other"), memory[:5].decode()
        yield gave(lambda: mmap.mmap(file.fileno(), 0, mmap.MAP_SHARED, mmap.PROT_WRITE))
    with open("file", "r+b") as file, mmap.mmap(file.fileno(), 0) as memory:  # noqa: PTH123
        pid = os.fork()
        if not pid:
            memory[4:8] = b"FORK"
            os._exit(0)
        os.waitpid(pid, 0)
        yield memory[:10].decode(), head("file")[:10]


@call
def a_reader_from_before_the_first_write():
    fd = opened("file")
    write("file", b"later")
    yield os.pread(fd, 5, 0).decode(), os.fstat(fd).st_ino == os.stat("file").st_ino
    os.truncate("file", 3)
    yield os.fstat(fd).st_size, os.read(fd, 100).decode()


@call
def a_map_from_before_the_first_write():
    with open("file", "rb") as file:  # noqa: PTH123
        memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        yield memory[:5].decode()
        write("file", b"later")
        yield memory[:5].decode()


@call
def allocation():
    with open("file", "r+b") as file:  # noqa: PTH123
        fd = file.fileno()
        yield gave(os.posix_fallocate, fd, 0, 100_000), os.fstat(fd).st_size
        keep = 1
        yield gave(raw, "fallocate", fd, keep, ctypes.c_long(0), ctypes.c_long(300_000))
        yield os.fstat(fd).st_size, os.fstat(fd).st_blocks >= 300_000 // 512
        punch = 2 | keep
        yield gave(raw, "fallocate", fd, punch, ctypes.c_long(0), ctypes.c_long(4096))
        yield os.pread(fd, 4096, 0) == bytes(4096), os.pread(fd, 5, 4100) == DATA[4100:4105]
        yield gave(os.truncate, "file", 5), shape("file")[3], gave(os.ftruncate, fd, 20_000)
        yield os.fstat(fd).st_size, gave(os.truncate, "other", 1_000_000), os.stat("other").st_size
        yield gave(os.truncate, "dir", 1), gave(os.truncate, "nothing", 1)


@call
def holes():
    with open("file", "r+b") as file:  # noqa: PTH123
        fd = file.fileno()
        yield os.lseek(fd, 0, os.SEEK_DATA), os.lseek(fd, 0, os.SEEK_HOLE)
        os.ftruncate(fd, 1 << 20)
        os.pwrite(fd, b"x" * 10, 512 << 10)
        for offset in (0, 100_000, 512 << 10, 600 << 10, 1 << 20):
            yield gave(os.lseek, fd, offset, os.SEEK_DATA), gave(os.lseek, fd, offset, os.SEEK_HOLE)
    fd = opened("other")
    yield os.lseek(fd, 0, os.SEEK_DATA), os.lseek(fd, 0, os.SEEK_HOLE), os.fstat(fd).st_blocks > 0
    yield gave(os.lseek, fd, 5, os.SEEK_DATA)


@call
def appending():
    first, second = (opened("file", os.O_WRONLY | os.O_APPEND) for _ in range(2))
    os.ftruncate(first, 0)
    for number in range(3):
        os.write(first, b"a%d" % number)
        os.write(second, b"b%d" % number)
    yield head("file"), os.lseek(second, 0, os.SEEK_CUR), os.pwrite(first, b"c", 0), head("file")
    reader = opened("other", os.O_RDWR | os.O_APPEND)
    yield os.read(reader, 2).decode(), os.write(reader, b"!"), head("other")


@call
def copying():
    out = opened("new", os.O_CREAT | os.O_RDWR)
    fd = opened("file")
    yield gave(os.copy_file_range, fd, out, 6_000)
    os.pwrite(out, DATA[:6_000], 0)
    os.lseek(out, 6_000, os.SEEK_SET)
    yield gave(os.sendfile, out, fd, 6_000, 4_000), read("new") == DATA
    yield gave(os.posix_fadvise, fd, 0, 0, os.POSIX_FADV_DONTNEED), gave(os.fsync, out)
    yield gave(os.fdatasync, out), gave(os.fsync, opened(".", os.O_DIRECTORY))
    yield os.preadv(fd, [bytearray(3), bytearray(4)], 9_997), os.pwritev(out, [b"a", b"b"], 1)


# ---------------------------------------------------------------------- locks and watching


def in_a_child(action):
    """What `action` gives there."""
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        os.write(writer, json.dumps(gave(action)).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as file:
        found = json.load(file)
    os.waitpid(pid, 0)
    return found


@call
def locks():
    now = fcntl.LOCK_EX | fcntl.LOCK_NB
    before = opened("file")
    yield gave(fcntl.flock, before, fcntl.LOCK_SH)
    after = opened("file", os.O_RDWR)
    yield gave(fcntl.flock, after, now), gave(fcntl.flock, before, fcntl.LOCK_UN)
    yield gave(fcntl.flock, after, now), gave(fcntl.flock, before, now)
    yield in_a_child(lambda: fcntl.flock(opened("file"), now))
    yield gave(fcntl.lockf, after, now, 10, 0)
    yield in_a_child(lambda: fcntl.lockf(opened("file", os.O_RDWR), now, 5, 5))
    yield in_a_child(lambda: fcntl.lockf(opened("file", os.O_RDWR), now, 5, 10))
    shared, one = struct.pack("hhqqi4x", fcntl.F_RDLCK, 0, 0, 0, 0), opened("other")
    get, put = 36, 37  # F_OFD_GETLK, F_OFD_SETLK
    yield len(gave(fcntl.fcntl, one, put, shared)) > 0
    wanted = struct.pack("hhqqi4x", fcntl.F_WRLCK, 0, 0, 0, 0)
    two = opened("other", os.O_RDWR)
    yield struct.unpack_from("h", fcntl.fcntl(two, get, wanted))[0] == fcntl.F_RDLCK
    yield gave(fcntl.fcntl, two, put, wanted)


class Watch:
    def __init__(self, path):
        self.fd = raw("inotify_init1", os.O_NONBLOCK)
        raw("inotify_add_watch", self.fd, os.fsencode(path), 0xFFF)

    def heard(self):
        """(mask, name), but for reads: who lists a folder reads it, or not."""
        try:
            data = os.read(self.fd, 1 << 16)
        except BlockingIOError:
            return []
        found = []
        while data:
            _, mask, _, size = struct.unpack_from("iIII", data)
            name = data[16 : 16 + size].rstrip(b"\0").decode()
            data = data[16 + size :]
            if not mask & 0x1 and mask != 0x40000020 and mask != 0x40000010:
                found.append((hex(mask), name))
        return found


@call
def watching():
    folder, file = Watch("dir"), Watch("file")
    write("dir/inner", b"changed")
    yield folder.heard()
    write("dir/new", b"", "xb")
    os.chmod("dir/new", 0o600)
    os.rename("dir/new", "dir/newer")
    os.rename("dir/inner", "out")
    os.unlink("dir/newer")
    os.mkdir("dir/made")
    yield folder.heard()
    os.rename("dir", "moved")
    write("moved/late", b"", "xb")
    yield folder.heard()
    write("file", b"1")
    os.chmod("file", 0o600)
    os.truncate("file", 0)
    yield file.heard()
    os.rename("other", "file")
    yield file.heard()


# ---------------------------------------------------------------------- names


@call
def unlink_while_open():
    reader, writer = opened("file"), opened("other", os.O_RDWR)
    yield gave(os.unlink, "file"), os.fstat(reader).st_nlink, os.pread(reader, 4, 0).decode()
    yield gave(os.unlink, "other"), os.write(writer, b"WRITTEN"), os.pread(writer, 9, 0).decode()
    yield gave(os.stat, "file"), os.fstat(writer).st_nlink, os.fstat(reader).st_size
    write("file", b"another", "xb")
    yield head("file"), os.pread(reader, 4, 0).decode()
    yield gave(os.fchmod, reader, 0o600), gave(os.ftruncate, writer, 1), os.fstat(writer).st_size
    linked = opened("hard1")
    yield gave(os.unlink, "hard1"), os.fstat(linked).st_nlink
    os.rename("hard2", "file")
    yield os.fstat(linked).st_nlink, head("file")


@call
def readdir_while_unlinking():
    seen, step = set(), 0
    with os.scandir("dir") as entries:
        for entry in entries:
            assert entry.name not in seen
            seen.add(entry.name)
            if entry.name.startswith("many"):
                os.unlink(f"dir/{entry.name}")
            step += 1
    yield len(seen) == MANY + 2, sorted(os.listdir("dir")), gave(os.rmdir, "dir")
    yield gave(os.unlink, "dir/inner"), gave(os.unlink, "dir/deep/far"), gave(os.rmdir, "dir/deep")
    fd = opened("dir", os.O_DIRECTORY)
    yield gave(os.rmdir, "dir"), os.listdir(fd), gave(os.open, "x", os.O_CREAT, dir_fd=fd)
    yield gave(os.mkdir, "dir"), os.listdir("dir")


@call
def what_was_removed_does_not_come_back():
    os.unlink("dir/inner")
    os.unlink("dir/deep/far")
    os.rmdir("dir/deep")
    os.rmdir("dir")
    yield gave(os.listdir, "dir"), gave(os.mkdir, "dir"), os.listdir("dir")
    yield gave(os.mkdir, "dir/deep"), os.listdir("dir/deep"), gave(os.rename, "dir", "empty")
    yield gave(os.mkdir, "dir"), os.listdir("dir"), os.listdir("empty")
    os.unlink("file")
    os.mkdir("file")
    yield (
        gave(os.rmdir, "file"),
        gave(os.stat, "file"),
        gave(write, "file", b"", "xb"),
        shape("file"),
    )
    os.unlink("other")
    os.symlink("x", "other")
    yield os.readlink("other"), sorted(os.listdir("."))


@call
def long_names():
    yield head(LONG), gave(os.stat, LONG + "n"), gave(write, "m" * 255, b"1", "xb")
    yield gave(write, "m" * 256, b"1", "xb"), gave(os.mkdir, "d" * 256), gave(os.mkdir, "d" * 255)
    yield gave(os.rename, LONG, "d" * 255 + "/" + "e" * 255), gave(os.rename, "file", "f" * 256)
    yield (
        gave(os.unlink, "m" * 255),
        gave(os.symlink, "x", "s" * 256),
        gave(os.link, "file", "l" * 256),
    )
    yield (
        gave(os.stat, "./" * 2047 + "f"),
        gave(os.stat, "./" * 2049),
        os.pathconf(".", "PC_NAME_MAX"),
    )
    write("\u20ac" * 85, b"bytes count", "xb")
    yield gave(write, "\u20ac" * 86, b"", "xb"), gave(os.rename, "\u20ac" * 85, "short")


@call
def names_of_any_bytes():
    names = [b"\xff\xfe", b"a\nb", b"'\"\\", b"-", b" ", "\u00e9".encode(), "e\u0301".encode()]
    for name in (*names, b"Case", b"case", b".wh.file", b".wh..wh..opq", b"..."):
        with open(name, "xb") as file:  # noqa: PTH123
            file.write(name)
    yield sorted(name.hex() for name in os.listdir(b".")), read(b".wh.file").decode()
    yield head("two words\n"), head("\u00fc\U0001f600"), os.path.exists("file")
    yield gave(os.rename, b".wh.file", b"dir/.wh.inner"), sorted(os.listdir("dir"))


@call
def wrong_kinds():
    yield gave(os.open, "file", os.O_CREAT | os.O_EXCL), gave(os.open, "file/x", os.O_CREAT)
    yield gave(os.open, "file", os.O_DIRECTORY), gave(os.open, "dir", os.O_WRONLY)
    yield (
        gave(os.mkdir, "file"),
        gave(os.rmdir, "file"),
        gave(os.unlink, "dir"),
        gave(os.rmdir, "dir"),
    )
    yield (
        gave(os.stat, "file/"),
        gave(os.rmdir, "."),
        gave(os.rmdir, "empty/."),
        gave(os.rmdir, "dir/.."),
    )
    yield gave(os.readlink, "file"), gave(os.listdir, "file"), gave(os.chdir, "file")
    yield (
        gave(os.mkdir, "a/b"),
        gave(os.stat, ""),
        gave(os.rename, "dir/.", "x"),
        gave(os.rmdir, "empty"),
    )
    yield (
        gave(os.open, "file", os.O_PATH) is not None,
        gave(os.mkdir, "x/"),
        gave(os.open, "y/", os.O_CREAT),
    )


@call
def special_files():
    yield gave(os.mkfifo, "fifo"), shape("fifo")[0]
    fds = os.open("fifo", os.O_RDONLY | os.O_NONBLOCK), os.open("fifo", os.O_WRONLY)
    yield os.write(fds[1], b"through"), os.read(fds[0], 10).decode()
    with socket.socket(socket.AF_UNIX) as listening, socket.socket(socket.AF_UNIX) as asking:
        listening.bind("dir/socket")
        listening.listen(1)
        yield gave(asking.connect, "dir/socket"), shape("dir/socket")[0][0]
        os.rename("dir", "moved")
        with socket.socket(socket.AF_UNIX) as again:
            yield gave(again.connect, "moved/socket"), gave(listening.bind, "file")
    yield gave(os.mknod, "plain", stat.S_IFREG | 0o600), shape("plain")


@call
def programs():
    def run():
        return os.waitstatus_to_exitcode(os.spawnv(os.P_WAIT, "./run", ["./run"]) << 8)

    null = opened("/dev/null", os.O_WRONLY)
    kept = os.dup(1)
    os.dup2(null, 1)
    try:
        first = run()
        write("run", b"#!/bin/sh\nexit 3\n#")
        second = run()
        os.rename("run", "dir/run")
        os.symlink("dir/run", "run")
        third = run()
        os.chmod("dir/run", 0o644)
        last = gave(os.execv, "./run", ["./run"])
    finally:
        os.dup2(kept, 1)
    yield first, second, third, last


@call
def the_file_system():
    found = os.statvfs(".")
    yield found.f_namemax, found.f_bsize, found.f_frsize, found.f_blocks > found.f_bavail > 0
    yield bool(found.f_flag & os.ST_RDONLY), found.f_files > found.f_ffree > 0
    yield os.pathconf(".", "PC_LINK_MAX") > 1, os.pathconf(".", "PC_PATH_MAX")
    direct = gave(os.open, "file", os.O_RDONLY | os.O_DIRECT)
    if isinstance(direct, int):
        page = mmap.mmap(-1, 4096)
        direct = [gave(os.readv, direct, [page]), page[:4].decode()]
    yield direct


def main():
    kind, folder = sys.argv[1:]
    if kind == "make":
        make(folder)
        return
    found = {}
    for name, function in CALLS.items():
        os.chdir(os.path.join(folder, name))
        gone = found[name] = []
        try:
            gone.extend(function())
        except Exception as error:  # noqa: BLE001 (what it gave is what is compared)
            gone.append(repr(error))
        sys.stdout.flush()
    os.chdir("/")
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()

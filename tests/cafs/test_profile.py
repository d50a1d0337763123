"""Profiles: their text, and which one suits a command."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devloop.cafs.digest import Digest, digest_of
from devloop.cafs.profile import (
    Profile,
    ProfileInvalid,
    Touch,
    best_for,
    command_of,
    profile_name,
)

IMAGE = digest_of(b"an index")
digests = st.binary(min_size=32, max_size=32).map(Digest)
touches = st.one_of(
    digests.map(Touch),
    st.builds(Touch, digests, st.integers(0, 10**8), st.integers(1, 10**8)),
)
words = st.lists(st.text(st.characters(blacklist_categories=()), max_size=8), max_size=4)


def profile_of(*command: str, touched: tuple[Touch, ...] = ()) -> Profile:
    return Profile(IMAGE, command_of(IMAGE, command), touched)


@given(words, st.lists(touches, max_size=8))
def test_what_was_written_is_read_back(command: list[str], touched: list[Touch]) -> None:
    profile = profile_of(*command, touched=tuple(touched))
    assert Profile.decode(profile.encode()) == profile


def test_its_text_is_as_documented() -> None:
    digest = digest_of(b"x")
    profile = profile_of("/bin/python3", "a.py", touched=(Touch(digest), Touch(digest, 3, 2)))
    assert profile.encode().decode().splitlines() == [
        "devloop profile 2",
        f"index {IMAGE.hex()}",
        'program "python3"',
        f"words {' '.join(profile.command.keys)}",
        digest.hex(),
        f"{digest.hex()} 3+2",
    ]


@given(st.lists(st.text("0123456789abcdef-", min_size=6), min_size=1, max_size=40))
def test_no_argument_is_in_it(arguments: list[str]) -> None:
    profile = profile_of("program", *arguments)
    data = profile.encode().removeprefix(f"devloop profile 2\nindex {IMAGE.hex()}\n".encode())
    for argument in arguments:
        assert argument.encode() not in data
        assert argument not in profile.name.removeprefix(IMAGE.hex())


def test_a_key_says_too_little_of_a_word_to_find_it_out() -> None:
    """Wrong guesses have the keys of the right one, whatever words follow."""
    right = command_of(IMAGE, ("login", "s3cret", "-v"))
    guesses = (command_of(IMAGE, ("login", str(n), "-v")) for n in range(300_000))
    assert right in guesses


@pytest.mark.parametrize(
    "change",
    [
        (b"profile 2", b"profile 1"),
        (b"\n3", b"\n03"),
        (b" 3+2", b" 03+2"),
        (b" 3+2", b" 3+0"),
        (b" 3+2", b" 3+2 "),
        (b'"a"', b'["a"]'),
        (b'"a"', b"1"),
        (b'"a"', b'"%s"' % (b"a" * 65)),
        (b"words ", b"words 00g0 "),
        (b"words ", b"words 00000 "),
        (b"words ", b"words" + b" 0000" * 32 + b" "),
        (b"index ", b"Index "),
        (b"3+2\n", b"3+2"),
    ],
)
def test_nothing_else_is_a_profile(change: tuple[bytes, bytes]) -> None:
    good = profile_of("a", touched=(Touch(digest_of(b"x"), 3, 2),)).encode()
    Profile.decode(good)
    bad = good.replace(*change)
    if bad != good:
        with pytest.raises(ProfileInvalid):
            Profile.decode(bad)


@given(st.binary(max_size=200))
def test_noise_is_refused(data: bytes) -> None:
    with pytest.raises(ProfileInvalid):
        Profile.decode(b"devloop profile 2\n" + data)


def test_the_profile_of_the_command_itself_is_the_best() -> None:
    commands = (("python3",), ("python3", "a.py"), ("python3", "a.py", "--lr", "1"), ("make",))
    profiles = [profile_of(*command) for command in commands]
    for profile in profiles:
        assert best_for(profile.command, profiles) == profile


def test_other_arguments_of_a_program_have_most_in_common() -> None:
    profiles = [profile_of("python3", name) for name in ("a.py", "b.py")]
    assert best_for(command_of(IMAGE, ("python3", "b.py", "--lr")), profiles) == profiles[1]
    assert best_for(command_of(IMAGE, ("python3", "c.py")), profiles) in profiles
    assert best_for(command_of(IMAGE, ("ruby", "b.py")), profiles) is None
    assert best_for(command_of(IMAGE, ("python3", "b.py")), []) is None


def test_names_tell_commands_and_images_apart() -> None:
    names = {
        profile_name(image, command_of(image, command))
        for image in (IMAGE, digest_of(b"other"))
        for command in ((), ("a",), ("a", "b"), ("a b",))
    }
    assert len(names) == 8

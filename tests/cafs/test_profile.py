"""Profiles: their text, and which one suits a command."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devloop.cafs.digest import Digest, digest_of
from devloop.cafs.profile import Profile, ProfileInvalid, Touch, best_for, profile_name

IMAGE = digest_of(b"an index")
digests = st.binary(min_size=32, max_size=32).map(Digest)
touches = st.one_of(
    digests.map(Touch),
    st.builds(Touch, digests, st.integers(0, 10**8), st.integers(1, 10**8)),
)
words = st.lists(st.text(st.characters(blacklist_categories=()), max_size=8), max_size=4)


@given(words, st.lists(touches, max_size=8))
def test_what_was_written_is_read_back(command: list[str], touched: list[Touch]) -> None:
    profile = Profile(IMAGE, tuple(command), tuple(touched))
    assert Profile.decode(profile.encode()) == profile


def test_its_text_is_as_documented() -> None:
    digest = digest_of(b"x")
    profile = Profile(IMAGE, ("python3", "train.py"), (Touch(digest), Touch(digest, 3, 2)))
    assert profile.encode().decode().splitlines() == [
        "devloop profile 1",
        f"index {IMAGE.hex()}",
        'command ["python3", "train.py"]',
        digest.hex(),
        f"{digest.hex()} 3+2",
    ]


@pytest.mark.parametrize(
    "change",
    [
        (b"profile 1", b"profile 2"),
        (b"\n3", b"\n03"),
        (b" 3+2", b" 03+2"),
        (b" 3+2", b" 3+0"),
        (b" 3+2", b" 3+2 "),
        (b'["a"]', b'["a",]'),
        (b'["a"]', b"[1]"),
        (b'["a"]', b'"a"'),
        (b"index ", b"Index "),
        (b"3+2\n", b"3+2"),
    ],
)
def test_nothing_else_is_a_profile(change: tuple[bytes, bytes]) -> None:
    good = Profile(IMAGE, ("a",), (Touch(digest_of(b"x"), 3, 2),)).encode()
    Profile.decode(good)
    bad = good.replace(*change)
    if bad != good:
        with pytest.raises(ProfileInvalid):
            Profile.decode(bad)


@given(st.binary(max_size=200))
def test_noise_is_refused(data: bytes) -> None:
    with pytest.raises(ProfileInvalid):
        Profile.decode(b"devloop profile 1\n" + data)


def test_the_profile_of_the_command_itself_is_the_best() -> None:
    commands = (("python3",), ("python3", "a.py"), ("python3", "a.py", "--lr", "1"), ("make",))
    profiles = [Profile(IMAGE, command, ()) for command in commands]
    for profile in profiles:
        assert best_for(profile.command, profiles) == profile


def test_other_arguments_of_a_program_have_most_in_common() -> None:
    profiles = [Profile(IMAGE, ("python3", name), ()) for name in ("a.py", "b.py")]
    assert best_for(("python3", "b.py", "--lr"), profiles) == profiles[1]
    assert best_for(("ruby", "b.py"), profiles) is None
    assert best_for(("python3", "b.py"), []) is None


def test_names_tell_commands_and_images_apart() -> None:
    names = {
        profile_name(image, command)
        for image in (IMAGE, digest_of(b"other"))
        for command in ((), ("a",), ("a", "b"), ("a b",))
    }
    assert len(names) == 8

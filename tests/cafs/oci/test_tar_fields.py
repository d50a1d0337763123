"""What is said of a tar header that makes no sense."""

from __future__ import annotations

import pytest

from devloop.cafs.oci.tar_fields import TarInvalid, decimal, number, pax_time_ns


def test_a_field_is_shown_as_people_write_it() -> None:
    with pytest.raises(TarInvalid) as caught:
        number(b"a tarthi")
    assert str(caught.value) == "has 'a tarthi' for a number"
    with pytest.raises(TarInvalid) as caught:
        decimal(b"\x1b[31m\xff")
    assert str(caught.value) == r"has '\x1b[31m\\xff' for a number"
    with pytest.raises(TarInvalid) as caught:
        pax_time_ns(b"noon")
    assert str(caught.value) == "has 'noon' for a time"

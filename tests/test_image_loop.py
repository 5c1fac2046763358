"""What a per-image loop is handed."""

import threading

import pytest

from pseudo_ris.errors import BadInputError
from pseudo_ris.image_loop import read_ahead
from pseudo_ris.records import ImageRecord


def test_files_are_read_ahead_in_order_and_errors_come_with_their_image():
    read: list[str] = []

    def reader(name):
        def read_it():
            read.append(name)
            if name == "c":
                raise BadInputError("c: is bad")
            return name.encode()

        return read_it

    names = list("abcdefg")
    ahead = read_ahead((ImageRecord(name, name, reader(name)) for name in names), count=2)
    first = next(ahead)
    assert (first.name, first.read()) == ("a", b"a")
    second, third = next(ahead), next(ahead)
    assert (second.read(), second.read()) == (b"b", b"b")
    with pytest.raises(BadInputError, match="c: is bad"):
        third.read()
    assert len(read) <= 5, "no more than two ahead of the one that is worked on"
    assert [record.read() for record in ahead] == [b"d", b"e", b"f", b"g"]
    assert read == names


def test_reading_ahead_ends_with_its_reader():
    read: list[str] = []
    ahead = read_ahead((ImageRecord(str(n), str(n), lambda n=n: read.append(str(n)) or b"") for n in range(100)), count=3)
    next(ahead).read()
    ahead.close()
    assert len(read) <= 4
    assert "read_ahead" not in " ".join(thread.name for thread in threading.enumerate())

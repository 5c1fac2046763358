"""What a per-image loop is handed."""

import threading

import pytest
import torch

from pseudo_ris.errors import BadInputError, DeviceError, UserError
from pseudo_ris.records import ImageRecord
from pseudo_ris.runtime.image_loop import ImageLoop, read_ahead


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


class OneImage(ImageLoop):
    """An image, and how it ended."""

    record = ImageRecord("a", "a.jpg", bytes)

    def images(self):
        self._begin()
        yield self.record

    def _known(self, record):
        return None

    def _ended(self, record, outcome):
        self.outcome = outcome


def ended_with(error: Exception):
    """What becomes of an image whose work fails after it was hashed."""
    loop = OneImage(retry_failed=False)
    for record in loop.images():
        with loop.guard(record):
            assert loop.is_needed(record, "key", is_current=False)
            raise error
    return loop.outcome


def test_a_lack_of_memory_is_not_remembered_as_the_images_fault():
    for error in (torch.OutOfMemoryError("CUDA out of memory."), RuntimeError("CUBLAS_STATUS_ALLOC_FAILED"), MemoryError()):
        assert (ended_with(error).status, ended_with(error).key) == ("failed", "")
    assert ended_with(ValueError("bad shape")).key == "key"


@pytest.fixture
def broken_gpu(monkeypatch):
    """A process that has used CUDA and for which each further call fails."""

    def fail():
        raise torch.AcceleratorError("CUDA error: device-side assert triggered\nCompile with ...")

    monkeypatch.setattr("torch.cuda.is_initialized", lambda: True)
    monkeypatch.setattr("torch.cuda.synchronize", fail)
    monkeypatch.setattr("torch.cuda.current_device", lambda: 1)


def test_a_gpu_that_is_broken_for_good_ends_the_process(broken_gpu):
    with pytest.raises(DeviceError) as caught:
        ended_with(RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED"))
    assert isinstance(caught.value, UserError)
    for part in ("a.jpg", "cuda:1", "device-side assert", "nvidia-smi", "CUDA_VISIBLE_DEVICES"):
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_error_after_which_cuda_works_is_the_images_own(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_initialized", lambda: True)
    monkeypatch.setattr("torch.cuda.synchronize", lambda: None)
    error = torch.AcceleratorError("CUDA error: invalid argument")
    assert (ended_with(error).status, ended_with(error).key) == ("failed", "key")

"""TorchScript archives: OpenAI's are read by torch.jit.load, all others are refused unopened."""

from __future__ import annotations

import zipfile

import pytest
import torch
from open_clip.model import convert_weights_to_fp16
from torch import nn

from pseudo_ris.checkpoints import weights
from pseudo_ris.checkpoints.manifest import read_manifest
from pseudo_ris.checkpoints.open_clip_tags import openai_checksums
from pseudo_ris.checkpoints.torch_files import is_torchscript
from pseudo_ris.checkpoints.weights import load_weights, read_state
from pseudo_ris.errors import UserError
from pseudo_ris.io.files import file_digest
from pseudo_ris.models.clip.scorer import build_clip

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*torch.jit.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning"),
]


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, bias=False)
        self.norm = nn.BatchNorm2d(4)

    def forward(self, x):
        return self.norm(self.conv(x))


class Net(nn.Module):
    """Something of every kind that an archive can hold."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList([Block(), Block()])
        self.same = self.blocks[0]
        self.turned = nn.Parameter(torch.randn(3, 5).t())
        self.tied = nn.Parameter(self.turned.data[1:3])
        self.short = nn.Parameter(torch.randn(4).half())
        self.scalar = nn.Parameter(torch.tensor(2.5))
        self.register_buffer("steps", torch.tensor([1, 2, 3], dtype=torch.int32))
        self.register_buffer("flags", torch.tensor([True, False]))
        self.register_buffer("nothing", torch.empty(0, 7))
        self.register_buffer("passing", torch.ones(2), persistent=False)
        self.plain = torch.arange(3.0)
        self.device = torch.device("cpu")
        self.number, self.name, self.none = 1 << 40, "a", None
        self.numbers, self.table, self.several = [1, 2], {"a": 1.5}, [torch.ones(1)]

    def forward(self, x):
        x = self.blocks[1](self.same.conv(x)[:, :3])
        return x + self.number + self.plain.sum() + self.numbers[0] + self.table["a"] + self.several[0] + self.scalar


def scripted(net):
    return torch.jit.script(net)


def traced(net):
    return torch.jit.trace(net, torch.randn(1, 3, 8, 8))


@pytest.fixture
def publish(monkeypatch):
    """Makes a file one that OpenAI published."""

    def as_published(path):
        checksums = {file_digest(path)}
        monkeypatch.setattr(weights, "openai_checksums", lambda: checksums)

    return as_published


def assert_same(state, expected):
    assert list(state) == list(expected)
    for name, tensor in expected.items():
        assert state[name].dtype == tensor.dtype, name
        assert state[name].stride() == tensor.stride(), name
        assert torch.equal(state[name], tensor), name


@pytest.mark.parametrize("compiled", [scripted, traced])
def test_a_published_archive_gives_the_tensors_that_were_saved(tmp_path, publish, compiled):
    torch.manual_seed(0)
    archived = compiled(Net().eval())
    archived.save(tmp_path / "net.pt")
    publish(tmp_path / "net.pt")
    assert_same(read_state(tmp_path / "net.pt"), archived.state_dict())


@pytest.mark.slow
def test_full_size_clip_as_openai_saved_it(tmp_path, publish):
    """Traced per method, partly float16, its sizes among the buffers, the causal mask a plain attribute."""
    model = build_clip("RN50").eval()
    mask = model._buffers.pop("attn_mask")
    model._non_persistent_buffers_set.discard("attn_mask")
    model.attn_mask = mask
    for name, value in {"input_resolution": 224, "context_length": 77, "vocab_size": 49408}.items():
        if hasattr(model, name):
            delattr(model, name)
        model.register_buffer(name, torch.tensor(value))
    inputs = {"encode_image": torch.zeros(1, 3, 224, 224), "encode_text": torch.zeros(1, 77, dtype=torch.int64)}
    archived = torch.jit.trace_module(model, inputs, check_trace=False)
    convert_weights_to_fp16(model)
    archived.save(tmp_path / "RN50.pt")
    publish(tmp_path / "RN50.pt")
    state = read_state(tmp_path / "RN50.pt")
    assert_same(state, archived.state_dict())
    assert state.keys() == build_clip("RN50").state_dict().keys() | {"input_resolution", "context_length", "vocab_size"}
    assert {tensor.dtype for tensor in state.values()} == {torch.float16, torch.float32, torch.int64}
    loaded = load_weights(build_clip("RN50"), tmp_path / "RN50.pt", "clip (RN50)")
    for name, tensor in loaded.named_parameters():
        assert torch.equal(tensor, state[name].float().reshape(tensor.shape)), name


def test_the_published_checksums_are_openais():
    published = openai_checksums()
    assert read_manifest().files["clip_rn50"].sha256 in published
    assert len(published) == 9
    assert all(len(bytes.fromhex(sha256)) == 32 for sha256 in published)


def assert_refused(path, monkeypatch):
    """No byte of the archive gets to torch, and the message names the file and the way out."""

    def never(*_, **__):
        raise AssertionError("handed to torch")

    with monkeypatch.context() as patched:
        patched.setattr(torch.jit, "load", never)
        patched.setattr(torch, "load", never)
        with pytest.raises(UserError, match=r"sha256 .*OpenAI.*torch\.jit\.load\(.*\)\.state_dict\(\)") as caught:
            read_state(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_archive_of_anyone_else_is_refused_unopened(tmp_path, monkeypatch):
    scripted(Block()).save(tmp_path / "net.pt")
    assert_refused(tmp_path / "net.pt", monkeypatch)


def test_a_published_archive_with_a_changed_byte_is_refused_unopened(tmp_path, publish, monkeypatch):
    path, block = tmp_path / "net.pt", Block()
    scripted(block).save(path)
    publish(path)
    content = bytearray(path.read_bytes())
    content[content.index(block.conv.weight.detach().numpy().tobytes())] ^= 1
    path.write_bytes(content)
    assert_refused(path, monkeypatch)


def test_a_hostile_pickle_is_refused_unopened(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with zipfile.ZipFile(tmp_path / "hostile.pt", "w") as file:
        file.writestr("net/data.pkl", b"\x80\x02cos\nmkdir\nX\x08\x00\x00\x00executed\x85R.")
        file.writestr("net/constants.pkl", b"\x80\x02).")
    assert_refused(tmp_path / "hostile.pt", monkeypatch)
    assert [path.name for path in tmp_path.iterdir()] == ["hostile.pt"]


@pytest.mark.parametrize("kept", [0.0, 0.3, 0.9])
def test_truncated_files_are_one_line(tmp_path, kept):
    path = tmp_path / "net.pt"
    traced(Block()).save(path)
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    assert not is_torchscript(path)
    with pytest.raises(UserError, match=r"net\.pt: not a ") as caught:
        read_state(path)
    assert "\n" not in str(caught.value)


def test_other_files_are_no_torchscript_archives(tmp_path):
    torch.save(Block().state_dict(), tmp_path / "w.pth")
    torch.save(Block().state_dict(), tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    (tmp_path / "w.safetensors").write_bytes(b"no zip at all")
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as file:
        file.writestr("net/code/a.py", b"")
    for entry in [*tmp_path.iterdir(), tmp_path / "missing.pt"]:
        assert not is_torchscript(entry)
    for name in ("w.safetensors", "other.zip", "missing.pt"):
        with pytest.raises(UserError, match=name):
            read_state(tmp_path / name)

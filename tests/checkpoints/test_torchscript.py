"""TorchScript archives are read as torch.jit.load reads them, and hostile ones do nothing."""

from __future__ import annotations

import zipfile

import pytest
import torch
from open_clip.model import convert_weights_to_fp16
from torch import nn

from pseudo_ris.checkpoints.torchscript import is_torchscript_archive, read_torchscript_state
from pseudo_ris.errors import UserError
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


def assert_same(state, expected):
    assert list(state) == list(expected)
    for name, tensor in expected.items():
        assert state[name].dtype == tensor.dtype, name
        assert state[name].stride() == tensor.stride(), name
        assert torch.equal(state[name], tensor), name


@pytest.mark.parametrize("compiled", [scripted, traced])
def test_state_is_that_of_torch_jit_load(tmp_path, compiled):
    torch.manual_seed(0)
    compiled(Net().eval()).save(tmp_path / "net.pt")
    assert is_torchscript_archive(tmp_path / "net.pt")
    state = read_torchscript_state(tmp_path / "net.pt")
    assert_same(state, torch.jit.load(tmp_path / "net.pt").state_dict())
    assert state["turned"].untyped_storage().data_ptr() == state["tied"].untyped_storage().data_ptr()


@pytest.mark.slow
def test_full_size_clip_as_openai_saved_it(tmp_path):
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
    state = read_torchscript_state(tmp_path / "RN50.pt")
    assert_same(state, torch.jit.load(tmp_path / "RN50.pt").state_dict())
    assert state.keys() == build_clip("RN50").state_dict().keys() | {"input_resolution", "context_length", "vocab_size"}
    assert {tensor.dtype for tensor in state.values()} == {torch.float16, torch.float32, torch.int64}


def text(value):
    return b"X" + len(value).to_bytes(4, "little") + value.encode()


def integer(value):
    return b"\x8a\x08" + value.to_bytes(8, "little", signed=True)


def name(module, attribute):
    return f"c{module}\n{attribute}\n".encode()


def module(**attributes):
    """Pickle instructions of a module with attributes, each given as instructions."""
    pairs = b"".join(text(key) + value for key, value in attributes.items())
    return name("__torch__", "Net") + b")\x81}(" + pairs + b"ub"


def tensor(shape=(2, 2), strides=(2, 1), offset=0, numel=4, key="0", storage="FloatStorage"):
    """Pickle instructions of a tensor in storage `key`."""
    identity = b"(" + text("storage") + name("torch", storage) + text(key) + text("cuda:0") + integer(numel) + b"tQ"
    numbers = [b"(" + b"".join(map(integer, sizes)) + b"t" for sizes in (shape, strides)]
    hooks = name("collections", "OrderedDict") + b")R"
    return (
        name("torch._utils", "_rebuild_tensor_v2")
        + b"("
        + identity
        + integer(offset)
        + b"".join(numbers)
        + b"\x89"
        + hooks
        + b"tR"
    )


def archive(path, instructions, storage=bytes(16), compression=zipfile.ZIP_STORED, **entries):
    """An archive whose data.pkl has `instructions`."""
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("net/data.pkl", b"\x80\x02" + instructions + b".")
        file.writestr("net/data/0", storage, compression)
        file.writestr("net/constants.pkl", b"\x80\x02).")
        for entry, content in entries.items():
            file.writestr(entry, content)
    return path


def test_handwritten_archive_without_source_gives_all_its_tensors(tmp_path):
    path = archive(tmp_path / "a.pt", module(w=tensor(), sub=module(b=tensor((2,), (1,), offset=2)), training=b"\x88"))
    state = read_torchscript_state(path)
    assert {key: tuple(value.shape) for key, value in state.items()} == {"w": (2, 2), "sub.b": (2,)}


def shared_pairs(depth):
    """A module of two that are one, which is again a module of two that are one, and so on."""
    instructions = module()
    for _ in range(depth):
        instructions = name("__torch__", "Net") + b")\x81}(" + text("a") + instructions + b"q\x00" + text("b") + b"h\x00ub"
    return instructions


def nested(depth):
    head = name("__torch__", "Net") + b")\x81}(" + text("a")
    return head * depth + b"N" + b"ub" * depth


HOSTILE = {
    "os.system": (name("os", "mkdir") + text("executed") + b"\x85R", "refused: os mkdir"),
    "eval": (name("builtins", "eval") + text("__import__('os').mkdir('executed')") + b"\x85R", "refused: builtins eval"),
    "torch function": (name("torch", "load") + text("x") + b"\x85R", "refused: torch load"),
    "dotted name": (name("collections", "OrderedDict.fromkeys"), "refused: collections OrderedDict.fromkeys"),
    "named like a class": (name("__torch__x", "Net") + b")\x81", "refused: __torch__x Net"),
    "other instruction": (b"\x8c\x02os\x8c\x05mkdir\x93", "refused: the pickle instruction SHORT_BINUNICODE"),
    "extension": (b"\x82\x01", "refused: the pickle instruction EXT1"),
    "called text": (text("os") + b")R", "not callable"),
    "state of its own": (name("__torch__", "Net") + b")\x81K\x01b", "refused: an object with a state of its own"),
    "stride out of bounds": (module(w=tensor(strides=(3, 1))), "reaches out of its storage"),
    "offset out of bounds": (module(w=tensor(offset=1)), "reaches out of its storage"),
    "offset of nothing": (module(w=tensor((0,), (1,), offset=5)), "reaches out of its storage"),
    "negative stride": (module(w=tensor(strides=(-2, 1))), "impossible shape"),
    "negative size": (module(w=tensor((-1, 2))), "impossible shape"),
    "too few strides": (module(w=tensor(strides=(1,))), "impossible shape"),
    "one element shown often": (module(w=tensor((1 << 40, 1 << 40), (0, 0))), "reaches out of its storage"),
    "storage longer than file": (module(w=tensor(numel=5)), "storage 0 is shorter than its tensors"),
    "storage of negative length": (module(w=tensor(numel=-1)), "storage 0 is shorter than its tensors"),
    "storage missing": (module(w=tensor(key="7")), "net/data/7"),
    "storage elsewhere": (module(w=tensor(key="../../../etc/passwd")), "no item named"),
    "storage of another kind": (module(w=tensor(storage="UntypedStorage")), "refused: torch UntypedStorage"),
    "no module": (b"K\x01", "holds a int, not a module"),
    "empty stack": (b"0", "refused: the pickle instruction POP"),
    "module in itself": (name("__torch__", "Net") + b")\x81q\x00}(" + text("a") + b"h\x00ub", "nested without end"),
    "modules that double": (shared_pairs(60), "nested without end"),
    "modules deeply nested": (nested(20_000), "nested without end"),
    "tuples deeply nested": (b")" + b"\x85" * 200_000, "holds a tuple, not a module"),
    "nested tuple as a key": (b"}()" + b"\x85" * 200_000 + b"Nu", "a dictionary key that is no text or number"),
    "nested tuple as a storage": (b"(NN)" + b"\x85" * 100_000 + b"NNtQ", "not a readable"),
    "large memo index": (b"Nr\xff\xff\xff\xff", "holds a NoneType"),
}


@pytest.mark.parametrize(("instructions", "message"), HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_pickles_are_refused_and_do_nothing(tmp_path, monkeypatch, instructions, message):
    monkeypatch.chdir(tmp_path)
    path = archive(tmp_path / "hostile.pt", instructions)
    with pytest.raises(UserError, match=message) as caught:
        read_torchscript_state(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < len(str(path)) + 300
    assert list(tmp_path.iterdir()) == [path]


def test_pickle_that_breaks_off(tmp_path):
    path = tmp_path / "net.pt"
    archive(path, module(w=tensor())[:-30] + text("x")[:-1])
    with pytest.raises(UserError, match=r"net\.pt: not a readable TorchScript archive"):
        read_torchscript_state(path)


def test_entry_names_that_lead_elsewhere_are_harmless(tmp_path):
    (tmp_path / "in").mkdir()
    path = archive(tmp_path / "in" / "a.pt", module(w=tensor()), **{"../escaped": b"x", "/escaped": b"x"})
    assert list(read_torchscript_state(path)) == ["w"]
    assert sorted(entry.name for entry in tmp_path.rglob("*")) == ["a.pt", "in"]


def test_compressed_storages_are_refused(tmp_path):
    path = archive(tmp_path / "a.pt", module(w=tensor()), compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(UserError, match="storage 0 is shorter than its tensors, or compressed"):
        read_torchscript_state(path)


def test_entries_that_share_their_bytes_are_refused(tmp_path):
    path = tmp_path / "a.pt"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("net/data.pkl", b"\x80\x02" + module() + b".")
        file.writestr("net/data/0", bytes(100_000))
        file.filelist.append(file.getinfo("net/data/0"))
    with pytest.raises(UserError, match="its entries are larger than the file"):
        read_torchscript_state(path)


def test_other_byte_order_is_refused(tmp_path):
    path = archive(tmp_path / "a.pt", module(w=tensor()), **{"net/byteorder": b"big"})
    with pytest.raises(UserError, match="another byte order"):
        read_torchscript_state(path)


def test_changed_bytes_are_noticed(tmp_path):
    path = archive(tmp_path / "a.pt", module(w=tensor()), storage=b"0123456789abcdef")
    path.write_bytes(path.read_bytes().replace(b"0123456789abcdef", b"0123456789abcdeF"))
    with pytest.raises(UserError, match="Bad CRC-32"):
        read_torchscript_state(path)


@pytest.mark.parametrize("kept", [0.0, 0.3, 0.9])
def test_truncated_files_are_one_line(tmp_path, kept):
    path = tmp_path / "net.pt"
    traced(Block()).save(path)
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    assert not is_torchscript_archive(path)
    with pytest.raises(UserError, match=r"net\.pt: not a readable TorchScript archive \(File is not a zip file\)") as caught:
        read_torchscript_state(path)
    assert "\n" not in str(caught.value)


def test_other_files_are_no_torchscript_archives(tmp_path):
    torch.save(Block().state_dict(), tmp_path / "w.pth")
    torch.save(Block().state_dict(), tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    (tmp_path / "w.safetensors").write_bytes(b"no zip at all")
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as file:
        file.writestr("net/code/a.py", b"")
    for entry in [*tmp_path.iterdir(), tmp_path / "missing.pt"]:
        assert not is_torchscript_archive(entry)
        with pytest.raises(UserError, match=entry.name):
            read_torchscript_state(entry)

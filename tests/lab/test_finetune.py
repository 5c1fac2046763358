"""The launcher of open_clip's training: its checks, the recipe and how options win, failures in one line."""

import io
import json
import sys
import tarfile

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing
from open_clip.loss import CoCaLoss
from torch.nn.parallel import DistributedDataParallel

from pseudo_ris.cli.lab import finetune as finetune_command
from pseudo_ris.errors import UserError
from pseudo_ris.lab import finetune
from pseudo_ris.models.coca.captioner import build_coca


def write_shard(path, names):
    with tarfile.open(path, "w") as archive:
        for name in names:
            archive.addfile(tarfile.TarInfo(name), io.BytesIO(b""))


@pytest.fixture
def pattern(tmp_path):
    """Four shards of two pairs each."""
    for shard in range(4):
        write_shard(tmp_path / f"{shard:05d}.tar", ["a.jpg", "a.txt", "a.json", "b.jpg", "b.txt"])
    return str(tmp_path / "{00000..00003}.tar")


@pytest.fixture
def checkpoint(tmp_path):
    path = tmp_path / "start.pt"
    path.write_bytes(b"")
    return str(path)


def settings(pattern, out, options, gpus=0):
    return finetune.read_settings(finetune.training_arguments(pattern, out, options, gpus))


def test_braces_and_double_colons_give_all_shards(pattern, tmp_path):
    shards = [str(tmp_path / f"{number:05d}.tar") for number in range(4)]
    assert finetune.list_shards(pattern) == shards
    assert finetune.list_shards(f"{shards[2]}::{shards[0]}") == [shards[2], shards[0]]
    assert finetune.list_shards("pipe:cat {1..2}.tar") == ["pipe:cat 1.tar", "pipe:cat 2.tar"]


def test_missing_shards_are_counted_and_the_first_is_named(tmp_path, pattern):
    with pytest.raises(UserError, match=r"00004\.tar: no such shard \(2 of 6 are missing\)"):
        finetune.list_shards(str(tmp_path / "{00000..00005}.tar"))
    with pytest.raises(UserError, match="invalid pattern of shards"):
        finetune.list_shards("crops/{0..1.tar")


def test_a_missing_webdataset_is_one_line_with_the_remedy(pattern, monkeypatch):
    monkeypatch.setitem(sys.modules, "webdataset.shardlists", None)
    with pytest.raises(UserError, match=r"webdataset is not installed; run: pip install .*finetune"):
        finetune.list_shards(pattern)


def test_pairs_are_counted_unless_the_data_set_says_how_many(pattern, tmp_path):
    shards = finetune.list_shards(pattern)
    assert finetune.count_pairs(pattern, shards) == 8
    (tmp_path / "sizes.json").write_text(json.dumps({f"{shard:05d}.tar": 100 for shard in range(4)}))
    assert finetune.count_pairs(pattern, shards) == 400
    (tmp_path / "sizes.json").write_text(json.dumps({"00000.tar": 100}))
    with pytest.raises(UserError, match=r"sizes\.json .* does not match the shards"):
        finetune.count_pairs(pattern, shards)


def test_what_cannot_be_counted_is_an_error(tmp_path):
    (tmp_path / "text.tar").write_text("not a tar file")
    write_shard(tmp_path / "images.tar", ["a.jpg", "b.jpg"])
    for name, message in (("text.tar", "not a tar file"), ("images.tar", "no pairs")):
        with pytest.raises(UserError, match=rf"{name}: {message}"):
            finetune.count_pairs(str(tmp_path / name), [str(tmp_path / name)])
    with pytest.raises(UserError, match="give --train-num-samples"):
        finetune.count_pairs("pipe:cat x.tar", ["pipe:cat x.tar"])


def test_the_recipe_is_the_published_one_on_the_papers_model(pattern, tmp_path, checkpoint):
    given = settings(pattern, tmp_path / "run", ["--pretrained", checkpoint])
    assert (given.model, given.epochs, given.batch_size, given.lr, given.wd) == ("coca_ViT-L-14", 1, 128, 1e-5, 0.1)
    assert (given.warmup, given.coca_caption_loss_weight, given.coca_contrastive_loss_weight) == (1000, 1, 0)
    assert (given.logs, given.name, given.train_data) == (str(tmp_path), "run", pattern)
    assert (given.train_num_samples, given.workers, given.precision) == (8, 3, "fp32")
    assert given.pretrained == checkpoint


def test_options_win_over_the_recipe(pattern, tmp_path, checkpoint):
    options = ["--pretrained", checkpoint, "--epochs", "4", "--train-num-samples", "6", "--workers", "1"]
    given = settings(pattern, tmp_path / "run", options)
    assert (given.epochs, given.train_num_samples, given.workers) == (4, 6, 1)


def test_several_gpus_share_the_shards_and_keep_a_trace_of_contrast(pattern, tmp_path, checkpoint):
    given = settings(pattern, tmp_path / "run", ["--pretrained", checkpoint], gpus=2)
    assert (given.workers, given.precision) == (2, "amp_bf16")
    assert 0 < given.coca_contrastive_loss_weight < 1e-9
    assert "--nproc-per-node=2" in finetune.training_command(2)
    assert finetune.training_command(1) == [sys.executable, "-m", "open_clip_train.main"]


@pytest.mark.parametrize(
    ("options", "gpus", "message"),
    [
        ([], 5, "4 shards for 5 GPUs"),
        (["--workers", "3"], 2, "needs a shard per worker and GPU, but has 4"),
        (["--epochz", "3"], 0, "unrecognized arguments: --epochz 3"),
        (["--epochs", "many"], 0, "--epochs: invalid int value: 'many'"),
        (["--model", "ViT-B-32"], 0, "contains coca"),
        (["--pretrained", "nowhere.pt"], 0, r"coca\.weights: nowhere\.pt does not exist"),
        ([], 0, r"download_weights\.sh coca_laion2b"),
    ],
)
def test_wrong_options_are_one_line(pattern, tmp_path, monkeypatch, options, gpus, message):
    monkeypatch.setenv("PSEUDO_RIS_WEIGHTS", str(tmp_path))
    with pytest.raises(UserError, match=message) as error:
        finetune.training_arguments(pattern, tmp_path / "run", options, gpus)
    assert "\n" not in str(error.value)


def test_an_unquoted_pattern_is_recognised():
    with pytest.raises(UserError, match="in quotes"):
        finetune_command.main(["00000.tar", "00001.tar", "00002.tar", "out"])


def test_progress_is_shown_and_a_failure_ends_with_the_last_lines(tmp_path, capfd):
    code = (
        "import sys; print('Model: ...'); print('Train Epoch: 0 [5/10]'); print('why it failed', file=sys.stderr); sys.exit(3)"
    )
    with pytest.raises(UserError, match=r"failed with exit code 3"):
        finetune.run_training([sys.executable, "-c", code], tmp_path / "out.log")
    shown = capfd.readouterr()
    assert shown.out == "Train Epoch: 0 [5/10]\n"
    assert "why it failed" in shown.err


def _two_steps(rank, weight):
    """Two steps of the small CoCa under DistributedDataParallel, as open_clip sets it up; returns the weights."""
    torch.manual_seed(0)
    model = DistributedDataParallel(build_coca("demo").train())
    loss = CoCaLoss(caption_loss_weight=1.0, clip_loss_weight=weight, cache_labels=True, rank=rank, world_size=2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, eps=1e-6, weight_decay=0.0)
    generator = torch.Generator().manual_seed(rank)
    for _ in range(2):
        optimizer.zero_grad()
        output = model(torch.randn(2, 3, 96, 96, generator=generator), torch.randint(1, 99, (2, 32), generator=generator))
        sum(loss(**output, output_dict=True).values()).backward()
        optimizer.step()
    return model.module.state_dict()


def _train_in_parallel(rank, folder):
    """Trains without contrast, which must fail, and with its trace; saves the weights."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    with pytest.raises(RuntimeError, match="Expected to have finished reduction"):
        _two_steps(rank, 0.0)
    torch.save(_two_steps(rank, float(finetune.ALMOST_NONE)), folder / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
def test_several_processes_train_with_the_trace_of_contrast_and_not_without(tmp_path):
    torch.multiprocessing.spawn(_train_in_parallel, (tmp_path,), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    torch.manual_seed(0)
    start = build_coca("demo").state_dict()
    assert torch.equal(first["logit_scale"], start["logit_scale"])
    assert not torch.equal(first["text_decoder.text_projection"], start["text_decoder.text_projection"])

"""Train, resume, extend, rerun, begin from another run: what the run directory promises."""

from __future__ import annotations

import errno
import json
import math
import shutil
import sys
import time
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn

import reverie as rv
from processes import Process
from reverie.core import registry
from reverie.core.cache import locked
from reverie.core.errors import ReverieError, UsageError
from reverie.core.state import transient
from reverie.training import checkpoint
from reverie.training.checkpoint import load_checkpoint, newest_whole, steps_in
from reverie.training.formats import MIGRATIONS, Migration, upgrade_config, upgrade_tensors
from reverie.training.run import Run
from run_cases import SMALL, Staged


@pytest.fixture(autouse=True)
def staged(monkeypatch):
    monkeypatch.setitem(registry.MODELS, "staged", registry.Entry(f"{__name__}:Staged", "", "", ""))


def state(run):
    saved = load_checkpoint(newest_whole(run.checkpoints)[0], training=True)
    flat = saved.weights | {f"ema.{name}": value for name, value in (saved.ema or {}).items()}
    for index, optimizer in enumerate(saved.training["optimizers"]):
        for p, values in optimizer["state"].items():
            flat |= {f"{index}.{p}.{name}": torch.as_tensor(value) for name, value in values.items()}
    return flat


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def cut_back(run, step, folder):
    """A copy of a run as if it had been killed after the checkpoint of ``step``."""
    shutil.copytree(run.path, folder)
    copy = Run.open(folder)
    for later in steps_in(copy.checkpoints):
        if later > step:
            shutil.rmtree(copy.checkpoints / f"{later:08d}")
    copy.update(status="running")
    return copy


# Extension


def test_a_finished_run_extended_goes_on_as_a_longer_one_would_and_is_exact(bars, tmp_path):
    """Killed inside the extension and resumed = not killed; rerun = both."""
    run = rv.train("staged", bars, out=tmp_path / "run", steps=8, warmup=20, keep=99, checkpoint_every=8, **SMALL)
    with pytest.raises(UsageError, match=r"finished.*steps \(in total\) or minutes"):
        rv.resume(run.path)
    with pytest.raises(UsageError, match="8 are done"):
        rv.resume(run.path, steps=8)
    before = state(run)
    extended = rv.resume(run.path, steps=28, quiet=True)
    lines = extended.metrics()
    assert [line["step"] for line in lines] == list(range(1, 29)) and extended.info["status"] == "finished"
    plan = extended.info["plan"]
    assert plan["extended"] == [8] and plan["end"] == 28 and not same(before, state(extended))
    # the last stage had 4 steps and gets 20 more; its warm-up of 2 steps begins anew
    share = 4 / 24
    assert plan["knots"] == [(0, 0.0, 8), (8, 0.5 + 0.5 * share, 20)]
    rates = [line["lr"] / 0.01 for line in lines[8:]]
    cosine = [0.5 * (1 + math.cos(math.pi * (share + (1 - share) * k / 20))) for k in range(20)]
    assert rates[0] == pytest.approx(0.5 * cosine[0]) and rates[1:] == pytest.approx(cosine[1:])
    killed = rv.resume(cut_back(extended, 16, tmp_path / "killed").path, quiet=True)
    at_once = rv.resume(cut_back(extended, 8, tmp_path / "at-once").path, quiet=True)
    repeated = rv.rerun(extended.path, tmp_path / "repeated", quiet=True)
    for other in (killed, at_once, repeated):
        assert same(state(extended), state(other)), other.path
        assert [line["lr"] for line in other.metrics()] == [line["lr"] for line in lines]
    twice = rv.resume(killed.path, steps=30, quiet=True)
    assert twice.info["plan"]["extended"] == [8, 28] and twice.info["result"]["steps"] == 30


def test_an_unfinished_run_extended_goes_on_without_a_jump(bars, tmp_path):
    run = rv.train("staged", bars, out=tmp_path / "run", steps=8, keep=99, checkpoint_every=5, warmup=0, **SMALL)
    longer = rv.resume(cut_back(run, 5, tmp_path / "cut").path, steps=20, quiet=True)
    assert longer.info["plan"]["knots"] == [(0, 0.0, 8), (5, 0.625, 15)] and longer.info["plan"]["extended"] == []
    again = cut_back(longer, 5, tmp_path / "killed before its first step")
    assert again.info["extensions"] == [{"step": 5, "steps": 20}]
    assert same(state(longer), state(rv.resume(again.path, quiet=True)))
    assert same(state(longer), state(rv.rerun(longer.path, tmp_path / "repeated", quiet=True)))


def test_minutes_more_are_trained_and_repeated_to_the_bit(bars, tmp_path):
    run = rv.train("staged", bars, out=tmp_path / "run", steps=20, keep=2, **SMALL)
    more = rv.resume(run.path, minutes=0.02, quiet=True)
    plan = more.info["plan"]
    assert plan["end"] == more.info["result"]["steps"] > 25 and plan["extended"] == [20]
    assert 0.5 < plan["knots"][1][1] < 1 and more.info["status"] == "finished"
    assert same(state(more), state(rv.rerun(more.path, tmp_path / "repeated", quiet=True)))


# Begin from another run


def test_a_run_begins_with_anothers_averaged_weights_where_they_fit_and_records_it(bars, tmp_path, capsys):
    old = rv.train("staged", bars, out=tmp_path / "old", steps=4, lr=0.1, **SMALL)
    average = load_checkpoint(newest_whole(old.checkpoints)[0]).averaged
    options = SMALL | {"quiet": False, "keep": 9}
    run = rv.train("staged", bars, out=tmp_path / "new", steps=2, width=4, init=str(old.path), **options)
    start = load_checkpoint(run.checkpoints / "00000000").weights
    assert same({k: v for k, v in start.items() if k != "seen"}, {k: v for k, v in average.items() if k != "seen"})
    init = run.info["init"]
    assert init["step"] == 4 and init["missing"] == [] and init["taken"] == 5 and len(init["weights"]) == 40
    assert "5 tensors copied" in capsys.readouterr().err
    wider = rv.train("staged", bars, out=tmp_path / "wider", steps=2, width=6, init=str(old.path), **options)
    assert wider.info["init"]["missing"] == ["a.weight", "a.bias", "b.weight"]
    assert "3 new: a.weight, a.bias, b.weight" in capsys.readouterr().err
    assert torch.equal(load_checkpoint(wider.checkpoints / "00000000").weights["b.bias"], average["b.bias"])
    assert same(state(run), state(rv.rerun(run.path, tmp_path / "again", quiet=True)))
    cut = cut_back(run, -1, tmp_path / "killed before any checkpoint")
    assert same(state(run), state(rv.resume(cut.path, quiet=True)))
    with pytest.raises(UsageError, match="nothing to start from"):
        rv.train("vae", bars, out=tmp_path / "none", width=8, steps=2, init=str(old.path), **SMALL)
    assert not (tmp_path / "none").exists()
    rv.resume(old.path, steps=6, quiet=True)
    shutil.rmtree(old.checkpoints / "00000004")
    with pytest.raises(UsageError, match="no checkpoint 4"):
        rv.rerun(run.path, tmp_path / "gone", quiet=True)


def test_a_repeat_needs_the_very_weights_and_another_model_is_a_warning(bars, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(registry.MODELS, "twin", registry.Entry(f"{__name__}:Staged", "", "", ""))
    old = rv.train("staged", bars, out=tmp_path / "old", steps=2, **SMALL)
    run = rv.train("twin", bars, out=tmp_path / "new", steps=2, init=str(old.path), **SMALL | {"quiet": False})
    assert "Warning: that is a run of another model, staged" in capsys.readouterr().err
    shutil.rmtree(old.path)
    rv.train("staged", bars, out=tmp_path / "old", steps=2, seed=5, **SMALL)
    with pytest.raises(ReverieError, match="no longer has the weights"):
        rv.rerun(run.path, tmp_path / "again", quiet=True)


def test_counters_and_memories_are_nobodys_to_inherit():
    model = nn.Sequential(Staged(), nn.Linear(2, 2))
    assert transient(model) == {"0.seen"} and transient(model[0]) == {"seen"}


# Models and data of one's own


@pytest.fixture
def mine(monkeypatch):
    monkeypatch.delitem(registry.MODELS, "staged")
    return Staged


def test_a_users_own_module_trains_is_killed_resumes_and_samples(mine, tiny, tmp_path):
    def fresh(seed=0):
        torch.manual_seed(seed)
        return mine()

    initial = fresh()
    run = rv.train(fresh(), tiny, out=tmp_path / "run", steps=8, keep=99, checkpoint_every=1, lr=0.1, **SMALL)
    assert run.info["model"] == {"name": f"{Staged.__module__}:Staged", "kwargs": None}
    start = load_checkpoint(run.checkpoints / "00000000").weights
    assert same(start, initial.state_dict())  # its weights are kept, not rebuilt by the seed
    images = rv.sample(run, 3)  # the process that trained it has the class
    assert images.shape == (3, 8, 8, 1) and (images == rv.sample(rv.load(run.path, model=fresh(1)), 3)).all()
    killed = cut_back(run, 5, tmp_path / "killed")
    with pytest.raises(UsageError, match=r"data = rv\.open_data"):
        rv.resume(killed.path)
    with pytest.raises(UsageError, match=r"a class of your own.*model="):
        rv.resume(killed.path, data=tiny)
    again = rv.resume(killed.path, model=fresh(2), data=tiny, quiet=True)
    assert same(state(run), state(again))
    with pytest.raises(UsageError, match=r"rv\.load\(path, model="):
        rv.load(again.path)
    with pytest.raises(UsageError, match=r"the model passed is a .*Linear"):
        rv.load(again.path, model=nn.Linear(1, 1))
    with pytest.raises(UsageError, match="does not have the initial weights"):
        rv.rerun(run.path, tmp_path / "other", model=fresh(3), data=tiny)
    assert same(state(run), state(rv.rerun(run.path, tmp_path / "same", model=fresh(), data=tiny, quiet=True)))


class Careless(Staged):
    """It draws from torch's own generators, as modules outside this package do."""

    def __init__(self):
        super().__init__()
        self.dropout = nn.Dropout()

    def loss(self, batch, outputs):
        x = self.dropout(batch["x"].flatten(1)) + 0.1 * torch.randn(64)
        return {"loss": (self.b(self.a(x)) - x).square().mean()}


def test_a_module_that_draws_from_global_generators_resumes_to_the_bit_and_leaves_them_alone(tiny, tmp_path):
    torch.manual_seed(0)
    run = rv.train(Careless(), tiny, out=tmp_path / "run", steps=8, keep=99, checkpoint_every=1, **SMALL)
    before = torch.get_rng_state()
    again = rv.resume(cut_back(run, 3, tmp_path / "cut").path, model=Careless(), data=tiny, quiet=True)
    assert same(state(run), state(again))
    torch.set_rng_state(before)
    expected = torch.rand(3)
    fresh = Careless()
    torch.set_rng_state(before)
    rv.resume(cut_back(run, 3, tmp_path / "cut2").path, model=fresh, data=tiny, quiet=True)
    assert torch.equal(torch.rand(3), expected)


def test_what_a_kill_left_half_written_is_removed_by_the_next_resume_and_nothing_else(bars, tmp_path):
    run = rv.train("vae", bars, out=tmp_path / "run", steps=3, keep=99, checkpoint_every=1, **SMALL, width=8, latent=3)
    cut = cut_back(run, 2, tmp_path / "cut")
    (cut.checkpoints / ".aside-3-1").mkdir()
    (cut.checkpoints / ".aside-3-1" / "model.safetensors").write_bytes(b"half")
    (cut.path / ".aside-ab12cd_9.json").write_text("{")
    (cut.path / "notes.txt").write_text("mine")
    rv.resume(cut.path, quiet=True)
    assert not list(cut.path.rglob(".aside-*")) and (cut.path / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("text", ["[]", "{}", '{"model": 3}', "{", ""])
def test_a_run_json_that_names_no_model_is_damaged(text, tmp_path):
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(ReverieError, match=r"run\.json is damaged"):
        Run.open(tmp_path)


def test_checkpoints_come_at_the_steps_asked_for_whatever_the_log_does_and_the_log_goes_on_from_them(bars, tmp_path):
    class Logs(rv.callbacks.Callback):
        def after(self, step):
            if step.number == 7:
                step.log(seven=7.0)

    how = SMALL | {"steps": 12, "keep": 99, "checkpoint_every": 7}
    for every in (4, 1000):
        run = rv.train("staged", bars, out=tmp_path / f"run{every}", callbacks=[Logs()], **how | {"log_every": every})
        assert steps_in(run.checkpoints) == [0, 7, 12]
        cut = cut_back(run, 7, tmp_path / f"cut{every}")
        shutil.rmtree(cut.path / "samples")
        again = rv.resume(cut.path, quiet=True, callbacks=[Logs()])
        clock = ("seconds", "images_per_second")
        logs = [[{k: v for k, v in line.items() if k not in clock} for line in r.metrics()] for r in (run, again)]
        assert logs[0] == logs[1] and [line["step"] for line in logs[0]] == ([4, 8, 12] if every == 4 else [12])
        assert [line["step"] for line in logs[0] if "seven" in line] == [8 if every == 4 else 12]
        previews = [path.name for path in sorted((again.path / "samples").iterdir())]
        # half of the training passed between the last line and the checkpoint
        assert previews == (["00000008.png", "00000012.png"] if every == 4 else ["00000012.png"])


def test_a_resume_takes_the_threads_of_the_run_or_says_that_it_cannot(bars, tmp_path, monkeypatch, capsys):
    class Threads(rv.callbacks.Callback):
        def after(self, step):
            threads.append(torch.get_num_threads())

    threads = []
    run = rv.train("staged", bars, out=tmp_path / "run", steps=2, keep=9, checkpoint_every=1, **SMALL)
    for recorded, cores, expected, text in (
        (2, 4, 2, "with 2 threads as before"),
        (8, 4, 1, "rounding"),
        (1, 4, 1, ""),
    ):
        cut = cut_back(run, 1, tmp_path / str(recorded))
        cut.update(machine={**cut.info["machine"], "threads": recorded})
        monkeypatch.setattr("os.cpu_count", lambda cores=cores: cores)
        rv.resume(cut.path, callbacks=[Threads()])
        text_of = capsys.readouterr().err
        assert threads.pop() == expected and torch.get_num_threads() == 1
        assert text in text_of and ("threads" in text_of) == bool(text)


def test_a_run_directory_that_vanishes_ends_its_training_with_a_message_and_is_not_made_anew(bars, tmp_path):
    class Moves(rv.callbacks.Callback):
        def after(self, step):
            if step.number == 3:
                (tmp_path / "run").rename(tmp_path / "moved")

    how = SMALL | {"checkpoint_every": 2}
    with pytest.raises(ReverieError, match=r"run has vanished.*reverie resume"):
        rv.train("staged", bars, out=tmp_path / "run", steps=6, callbacks=[Moves()], **how)
    assert not (tmp_path / "run").exists()
    expected = rv.train("staged", bars, out=tmp_path / "expected", steps=6, **how)
    assert same(state(expected), state(rv.resume(tmp_path / "moved", quiet=True)))


def test_a_disk_that_becomes_read_only_ends_the_training_with_what_is_kept(bars, tmp_path, monkeypatch):
    class Freezes(rv.callbacks.Callback):
        def after(self, step):
            if step.number == 3:
                monkeypatch.setattr("os.mkdir", refuse)

    def refuse(*args, **kwargs):
        raise OSError(errno.EROFS, "Read-only file system")

    with pytest.raises(ReverieError, match=r"file system is read-only.*Kept: checkpoint 2"):
        rv.train("staged", bars, out=tmp_path / "run", steps=6, checkpoint_every=2, callbacks=[Freezes()], **SMALL)
    monkeypatch.undo()
    assert steps_in(tmp_path / "run" / "checkpoints") == [0, 2]


def test_a_checkpoint_that_a_training_prunes_while_it_is_read_is_replaced_by_the_newer_one(bars, tmp_path, monkeypatch):
    run = rv.train("staged", bars, out=tmp_path / "run", steps=3, keep=1, checkpoint_every=1, **SMALL)
    newest = newest_whole(run.checkpoints)[0]
    real, content = checkpoint.torn, load_checkpoint(newest, training=True)

    def pruned(path):
        reason = real(path)
        if path == newest:  # right after it was looked at
            content.step = 4
            checkpoint.save_checkpoint(run.checkpoints, content, keep=1)
        return reason

    monkeypatch.setattr(checkpoint, "torn", pruned)
    with warnings.catch_warnings(action="error"):
        assert rv.load(run.path).checkpoint == 4


def test_a_file_system_without_locks_is_mentioned(bars, tmp_path, monkeypatch):
    import fcntl

    run = rv.train("staged", bars, out=tmp_path / "run", steps=2, **SMALL)

    def unsupported(*args):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", unsupported)
    with pytest.warns(UserWarning, match="without locks: do not train it twice"):
        rv.resume(run.path, steps=3, quiet=True)


def test_links_inside_a_run_are_refused_and_a_link_to_a_run_is_a_run(bars, tmp_path):
    run = rv.train("staged", bars, out=tmp_path / "run", steps=2, **SMALL)
    (tmp_path / "link").symlink_to(run.path, target_is_directory=True)
    assert rv.resume(tmp_path / "link", steps=3, quiet=True).info["result"]["steps"] == 3
    shutil.move(run.checkpoints, tmp_path / "elsewhere")
    run.checkpoints.symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    before = sorted((tmp_path / "elsewhere").rglob("*"))
    for verb in (lambda: rv.resume(run.path, steps=4), lambda: rv.sample(run.path, 1)):
        with pytest.raises(ReverieError, match=r"checkpoints is a link.*the run directory may be a link"):
            verb()
    assert sorted((tmp_path / "elsewhere").rglob("*")) == before


def test_damaged_checkpoints_are_set_aside_by_resume_until_a_newer_one_is_whole(bars, tmp_path):
    run = rv.train("staged", bars, out=tmp_path / "run", steps=4, keep=2, checkpoint_every=1, **SMALL)
    expected = {name: value.clone() for name, value in state(run).items()}  # the files are mapped
    for step in (3, 4):
        (run.checkpoints / f"{step:08d}" / "model.safetensors").write_bytes(b"damaged")
    run.update(status="stopped")

    class Looks(rv.callbacks.Callback):
        order = 4  # after the checkpoint

        def after(self, step):
            names.append(sorted(path.name for path in run.checkpoints.iterdir()))

    names = []
    assert same(expected, state(rv.resume(run.path, quiet=True, callbacks=[Looks()])))
    assert names[0] == ["00000000", "00000001", "00000003.damaged-1", "00000004.damaged-1"]
    assert names[2] == ["00000002", "00000003", "00000004.damaged-1"] and names[3] == ["00000003", "00000004"]


def test_lines_of_the_log_that_are_none_are_passed_over(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n[]\n{"a": 2}\n{"step": 2}\n{"st')
    assert [line["step"] for line in Run(tmp_path, {}).metrics()] == [1, 2]


def test_a_damaged_newest_checkpoint_is_passed_over_with_a_warning(bars, tmp_path):
    run = rv.train("vae", bars, out=tmp_path / "run", steps=3, keep=99, checkpoint_every=1, **SMALL, width=8, latent=3)
    weights = run.checkpoints / "00000003" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.warns(UserWarning, match="checkpoint 3 is damaged"):
        assert rv.load(run).checkpoint == 2


def test_a_built_model_keeps_its_weights_and_its_run_resumes_by_itself(bars, tmp_path):
    torch.manual_seed(3)
    model = rv.build("vae", rv.data(bars), width=8, latent=3)
    initial = {name: value.clone() for name, value in model.state_dict().items()}
    run = rv.train(model, bars, out=tmp_path / "run", steps=4, keep=99, checkpoint_every=1, **SMALL)
    assert same(load_checkpoint(run.checkpoints / "00000000").weights, initial)
    assert run.info["model"]["kwargs"]["latent"] == 3
    again = rv.resume(cut_back(run, 2, tmp_path / "cut").path, quiet=True)
    assert same(state(run), state(again)) and rv.sample(again, 2).shape == (2, 8, 8, 1)
    with pytest.raises(UsageError, match=r"initial weights came with the model.*model="):
        rv.rerun(run.path, tmp_path / "again")
    with pytest.raises(UsageError, match="fixed when it was built"):
        rv.train(model, bars, latent=4, steps=2)


def test_other_data_than_the_runs_is_refused(mine, tiny, draw_bars, tmp_path):
    import dataclasses

    run = rv.train(mine(), tiny, out=tmp_path / "run", steps=2, **SMALL)
    other = dataclasses.replace(tiny, fingerprint="f" * 64)
    with pytest.raises(ReverieError, match="not what it was trained on"):
        rv.resume(run.path, steps=4, model=mine(), data=other)


def test_a_run_without_data_is_trained_resumed_and_repeated(tmp_path, monkeypatch):
    class Canvas(nn.Module):
        def __init__(self, width=3):
            super().__init__()
            self.image = nn.Parameter(torch.zeros(1, width, 8, 8))

        def stages(self, lr=0.1):
            return [rv.Stage([rv.Phase("canvas", torch.optim.Adam([self.image], lr), self.loss)])]

        def loss(self, batch, outputs):
            return {"loss": (self.image - batch.rng(1).mean()).square().mean()}

    monkeypatch.setattr(sys.modules[__name__], "Canvas", Canvas, raising=False)
    monkeypatch.setitem(registry.MODELS, "canvas", registry.Entry(f"{__name__}:Canvas", "", "", ""))
    run = rv.train("canvas", None, out=tmp_path / "run", steps=6, keep=9, checkpoint_every=1, **SMALL)
    assert run.info["data"] is None and (run.path / "loss.png").exists()
    again = rv.resume(cut_back(run, 3, tmp_path / "cut").path, quiet=True)
    assert same(state(run), state(again))
    assert same(state(run), state(rv.rerun(run.path, tmp_path / "repeated", quiet=True)))


# Formats


@pytest.mark.filterwarnings("ignore:Weights of .*unfinished")
def test_an_unfinished_run_of_an_older_format_is_refused_with_the_remedy_and_begun_from(bars, tmp_path):
    run = rv.train("staged", bars, out=tmp_path / "run", steps=4, keep=9, checkpoint_every=1, **SMALL)
    old = cut_back(run, 2, tmp_path / "old")
    info = json.loads((old.path / "run.json").read_text())
    del info["format"]
    (old.path / "run.json").write_text(json.dumps(info))
    for verb in (rv.resume, rv.rerun):
        with pytest.raises(UsageError, match=f"older version.*reverie train staged --init {old.path}"):
            verb(old.path)
    assert rv.sample(old, 2).shape == (2, 8, 8, 1)
    assert (
        rv.train("staged", bars, out=tmp_path / "new", steps=2, init=str(old.path), **SMALL).info["init"]["step"] == 2
    )


def test_formats_rename_options_and_tensors_down_to_the_runs_that_a_run_builds_on(monkeypatch):
    step = Migration(
        options={"": {"depth": "blocks"}, "vae": {"beta": None}},
        tensors={"vae": [(r"^enc\.", "encoder."), (r"pool$", None)], "": [("weight", "w")]},
    )
    monkeypatch.setitem(MIGRATIONS, 1, step)
    inner = {"name": "vae", "kwargs": {"beta": 1.0, "width": 8}, "run": "runs/vae"}
    config = {"name": "latent", "kwargs": {"depth": 2, "codec": inner}}
    tensors = {name: torch.zeros(1) for name in ("enc.weight", "codec.enc.weight", "codec.pool", "net.bias")}
    assert upgrade_config(config, 1) == {
        "name": "latent",
        "kwargs": {"blocks": 2, "codec": {"name": "vae", "kwargs": {"width": 8}, "run": "runs/vae"}},
    }
    assert set(upgrade_tensors(tensors, config, 1)) == {"enc.w", "codec.encoder.w", "net.bias"}
    assert upgrade_config(config, 2) == config
    with pytest.raises(UsageError, match="later version"):
        upgrade_config(config, 99)


# Two at once


def test_a_run_that_is_being_trained_is_not_resumed_by_another(bars, tmp_path):
    run = rv.train("staged", bars, out=tmp_path / "run", steps=2, **SMALL)
    before = (run.path / "run.json").read_text()
    with locked(run.path / ".lock"), pytest.raises(UsageError, match="trained by another process"):
        rv.resume(run.path, steps=4)
    assert (run.path / "run.json").read_text() == before
    rv.resume(run.path, steps=4, quiet=True)


def test_kill_9_inside_an_extension_then_resume_gives_the_same_bits(bars, tmp_path):
    options = {"width": 8, "latent": 3, "batch_size": 16, "quiet": True, "checkpoint_every": 20, "device": "cpu"}
    run = rv.train("vae", bars, out=tmp_path / "run", steps=20, **options)
    killed = Path(shutil.copytree(run.path, tmp_path / "killed"))
    full = rv.resume(run.path, steps=200, quiet=True)
    child = Process("resume", killed, "--steps", 200)
    until = time.monotonic() + 120
    while len((killed / "metrics.jsonl").read_text().splitlines()) < 6 and time.monotonic() < until:
        time.sleep(0.01)
    child.kill()
    if Run.open(killed).info["status"] == "finished" and Run.open(killed).info["plan"]["end"] == 200:
        pytest.fail("all 200 steps were done before the kill: lengthen this test")
    assert same(state(full), state(rv.resume(killed, quiet=True)))

"""The textbook U-Net against diffusers' own, and runs that go to diffusers and come back."""

from __future__ import annotations

import ast
import hashlib
import inspect
import json
import os
import shutil
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from reverie.cli import main
from reverie.core import registry
from reverie.core.errors import ReverieError, UsageError
from reverie.core.noise import Noise
from reverie.data.provenance import unknown
from reverie.inference.load import data_of, load
from reverie.interop import export, import_
from reverie.interop.exporting import EXPORTED, WEIGHTS, arguments, how_to_load
from reverie.interop.names import chain_arguments, chain_config, unet_arguments, unet_config
from reverie.media import Spec
from reverie.models.diffusion.networks import unet
from reverie.nets.textbook_unet import TextbookUNet
from reverie.nets.unet import UNet
from reverie.training.checkpoint import Checkpoint, save_checkpoint
from reverie.training.run import Run
from reverie.workflow.again import rerun, resume
from reverie.workflow.train import train

SMALL = {"widths": (8, 16), "norm_groups": 4, "depth": 1}
NETWORKS = {
    "the paper's": SMALL | {"depth": 2},
    "diffusers' defaults": SMALL
    | {"head_dim": 8, "norm_eps": 1e-5, "downsample_padding": 1}
    | {"flip_sin_to_cos": True, "freq_shift": 0, "attention_levels": (0, 1)},
    "scale and shift": SMALL | {"widths": (8, 12, 16), "scale_shift": True, "attention_levels": (2,)},
    "no attention": SMALL | {"attention_levels": (), "mid_attention": False},
    "classes": SMALL | {"conditional": "label", "classes": 5},
    "one level": SMALL | {"widths": (8,), "attention_levels": (0,)},
}


@pytest.fixture(scope="module")
def diffusers(tmp_path_factory):
    """The library, its cache of other people's code in a folder of ours; tests that need it are skipped without it."""
    os.environ.setdefault("HF_MODULES_CACHE", str(tmp_path_factory.mktemp("modules")))
    library = pytest.importorskip("diffusers")
    library.utils.logging.set_verbosity_error()
    library.utils.logging.disable_progress_bar()
    return library


def textbook(shape=8, channels=3, **kwargs):
    torch.manual_seed(0)
    return registry.build("ddpm-textbook", shape=shape, channels=channels, **kwargs).eval()


def run_of(path, name, classes=(), **kwargs):
    """A run whose network says something, and no training."""
    torch.manual_seed(0)
    model = registry.build(name, shape=8, channels=1, classes=len(classes), **kwargs)
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        parameter.data += 0.05 * torch.randn(parameter.shape, generator=generator)
    record = unknown(Spec("image", (8, 8), 1), list(classes))
    run = Run.create(path, {"reverie": "0.0", "model": model.config, "data": record, "status": "finished"})
    save_checkpoint(run.checkpoints, Checkpoint(7, model.config, model.state_dict(), None, None), keep=1)
    return run


def change(path, **record):
    """Change entries of a JSON file; None removes one."""
    content = json.loads(path.read_text()) | record
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


# The network


@pytest.mark.parametrize("kwargs", NETWORKS.values(), ids=NETWORKS)
def test_the_network_is_diffusers_own_weight_for_weight(diffusers, kwargs):
    model = textbook(**kwargs)
    theirs = diffusers.UNet2DModel.from_config(unet_config(model.config["kwargs"])).eval()
    for parameter in theirs.parameters():  # norms too, which start at 1 and 0
        parameter.data += 0.1 * torch.randn(parameter.shape)
    model.net.load_state_dict(theirs.state_dict())
    net = model.net.to(memory_format=torch.channels_last)
    x, t = torch.randn(3, 3, 8, 8), torch.tensor([0, 500, 999])
    class_kwargs = {"class_labels": torch.tensor([0, 4, 5])} if model.classes else {}
    expected = theirs(x, t, **class_kwargs).sample
    got = net(x, t.float(), *(value.where(value < 5, -1) for value in class_kwargs.values()))
    assert torch.allclose(got, expected, atol=1e-5) and expected.std() > 0.05
    got.square().mean().backward()
    expected.square().mean().backward()
    slopes = dict(theirs.named_parameters())
    assert all(torch.allclose(p.grad, slopes[name].grad, atol=1e-5) for name, p in net.named_parameters())


def test_names_and_shapes_are_those_of_the_published_cifar_network():
    """google/ddpm-cifar10-32: 35.7 million parameters; the hash is of UNet2DModel's own names and shapes."""
    with torch.device("meta"):
        net = TextbookUNet(3, (128, 256, 256, 256), 2, (1,))
    lines = sorted(f"{name} {tuple(value.shape)}" for name, value in net.state_dict().items())
    assert sum(p.numel() for p in net.parameters()) == 35_746_307
    assert hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16] == "50280b0489a4e40d"


def test_the_last_row_of_the_embedding_is_any_class():
    model = textbook(**NETWORKS["classes"])
    x, t = torch.randn(2, 3, 8, 8), torch.tensor([3.0, 700.0])
    nothing, named = model.net(x, t), model.net(x, t, torch.tensor([-1, 2]))
    assert torch.equal(nothing[0], named[0]) and not torch.allclose(nothing[1], named[1])


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"shape": 9}, "halve"),
        ({"norm_groups": 3}, "norm_groups"),
        ({"attention_levels": (2,)}, "attention_levels"),
        ({"depth": 0}, "depth"),
        ({"head_dim": 9}, "head_dim"),
        ({"conditional": "text"}, "conditional"),
        ({"betas": (0.02, 0.01)}, "betas"),
        ({"schedule": "sigmoid"}, "schedule"),
    ],
)
def test_unfit_arguments_are_named(wrong, message):
    with pytest.raises(UsageError, match=message):
        textbook(**SMALL | wrong)


@pytest.mark.parametrize("kwargs", NETWORKS.values(), ids=NETWORKS)
def test_configurations_go_to_diffusers_names_and_back(kwargs):
    config = textbook(schedule="cosine", prediction="v", timesteps=100, **kwargs).config["kwargs"]
    exported = json.loads(json.dumps(unet_config(config) | {"num_class_embeds": config["classes"] or None}))
    back = unet_arguments(exported) | chain_arguments(chain_config(config, config["betas"]))
    for key, value in back.items():
        assert value == (list(config[key]) if isinstance(config[key], tuple) else config[key]), key


# Out

SENT = {
    "textbook linear": ("ddpm-textbook", SMALL),
    "textbook cosine": ("ddpm-textbook", SMALL | {"schedule": "cosine", "prediction": "v"}),
    "textbook classes": ("ddpm-textbook", SMALL | {"conditional": "label"}),
    "fast": ("ddpm", {"width": 8}),
    "fast linear x0 classes": (
        "ddpm",
        {"width": 8, "schedule": "linear", "timesteps": 400, "prediction": "x0", "conditional": "label"},
    ),
    "flow": ("flow-matching", {"width": 8}),
    "flow classes": ("flow-matching", {"width": 8, "conditional": "label"}),
    "edm": ("edm", {"width": 8}),
}
GRIDS = {"edm": {"sampler": "dpm++2m", "time_grid": "karras"}}
sent = pytest.mark.parametrize("name, kwargs", SENT.values(), ids=SENT)


class Given:
    """Noise that somebody else has drawn."""

    def __init__(self, noise):
        self.noise = noise

    def __call__(self, *shape):
        assert shape == self.noise.shape[1:]
        return self.noise


@pytest.fixture(scope="module", params=SENT.items(), ids=SENT)
def trained(request, bars, tmp_path_factory):
    """A run of a few steps, so that images are not black and white all over, and its exported folder."""
    _, (name, kwargs) = request.param
    path = tmp_path_factory.mktemp("sent")
    options = {"steps": 40, "batch_size": 16, "lr": 4e-3, "warmup": 5, "ema": 0.8, "device": "cpu", "quiet": True}
    run = train(name, bars, out=path / "run", **options, **kwargs)
    return run, export(run, path / "out")


def test_diffusers_draws_the_same_images(diffusers, trained):
    run, out = trained
    model = load(run, "cpu")
    options = {"steps": 25} | GRIDS.get(model.config["name"], {"sampler": "ddim", "time_grid": "uniform"})
    travels = (out / "pipeline.py").exists()
    pipe = diffusers.DiffusionPipeline.from_pretrained(str(out), **({"trust_remote_code": True} if travels else {}))
    pipe.set_progress_bar_config(disable=True)
    with torch.inference_mode():
        if travels:
            labels = [1, 0, -1] if model.classes else None
            guided = {"class_labels": labels, "guidance_scale": 2.0} if labels else {}
            cond = {"label": torch.tensor(labels), "guidance": 2.0} if labels else {}
            ours = model.sample(Noise.of_seeds([3, 4, 5]), **options, **cond)
            theirs = pipe(seeds=[3, 4, 5], num_inference_steps=25, output_type="pt", **guided).images
        else:
            assert type(pipe).__name__ == "DDIMPipeline"
            ours = model.sample(Given(torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))), **options)
            seeded = torch.Generator().manual_seed(0)
            settings = {"batch_size": 3, "num_inference_steps": 25, "generator": seeded, "output_type": "np"}
            theirs = torch.from_numpy(pipe(**settings, use_clipped_model_output=True).images).permute(0, 3, 1, 2)
    assert torch.allclose(ours, 2 * theirs - 1, atol=1e-4)
    assert ((ours.abs() < 0.99).float().mean() > 0.2) and ours.std() > 0.1  # an image, and not one of clamped pixels


def test_what_was_exported_comes_back_bit_for_bit(trained, tmp_path):
    run, out = trained
    ours, back = load(run, "cpu"), load(import_(out, tmp_path / "back"), "cpu")
    assert ours.config == {"name": back.config["name"], "kwargs": ours.config["kwargs"]}
    label = {"label": torch.tensor([1, 0])} if ours.classes else {}
    with torch.inference_mode():
        pairs = [model.sample(Noise.of_seeds([0, 9]), steps=3, **label) for model in (ours, back)]
    assert torch.equal(*pairs) and back.classes == ours.classes
    if ours.classes:
        assert back.run["data"]["classes"] == run.info["data"]["classes"]


@sent
def test_exporting_needs_no_diffusers_and_leaves_a_whole_folder(name, kwargs, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "diffusers", None)
    classes = ("lying", "standing") if "conditional" in kwargs else ()
    out = export(run_of(tmp_path / "run", name, classes, **kwargs), tmp_path / "deep" / "out")
    files = {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}
    code = {file for file in files if file.endswith(".py")}
    native = name == "ddpm-textbook"
    assert files - code == {
        "README.md",
        "model_index.json",
        "reverie.json",
        "scheduler/scheduler_config.json",
        "unet/config.json",
        WEIGHTS,
    }
    assert code == (set() if native else {"unet/reverie_unet.py"}) | (
        set() if native and not classes else {"pipeline.py"}
    )
    assert [path.name for path in out.parent.iterdir()] == ["out"]
    assert ("0 lying, 1 standing" in (out / "README.md").read_text()) == bool(classes)
    assert ("trust_remote_code" in how_to_load(out)) == bool(code)


def test_code_that_travels_needs_nothing_of_ours_and_carries_our_files_as_they_are(tmp_path):
    out = export(run_of(tmp_path / "run", "ddpm", width=8), tmp_path / "out")
    for file, module in (("unet/reverie_unet.py", UNet), ("pipeline.py", Noise)):
        text = (out / file).read_text()
        source = inspect.getsource(inspect.getmodule(module))
        assert source.replace("from __future__ import annotations\n", "") in text
        nodes = list(ast.walk(ast.parse(text)))
        assert not [node for node in nodes if isinstance(node, ast.ImportFrom) and "reverie" in (node.module or "")]
        compile(text, file, "exec")


@pytest.mark.parametrize(
    "size, channels, width, depth, classes", [(8, 1, 8, 1, 0), (32, 3, 8, 2, 3), (128, 3, 8, 1, 0)]
)
def test_a_fast_network_s_arguments_are_read_back_from_it(size, channels, width, depth, classes):
    net = unet((size, size), channels, width, depth, classes=classes)
    read = arguments(net)
    assert set(read) == set(inspect.signature(UNet).parameters), "a new argument: tell interop.exporting.arguments"
    again = UNet(**read)
    again.load_state_dict(net.state_dict())
    for parameter, twin in zip(net.parameters(), again.parameters(), strict=True):
        twin.data = parameter.data = torch.randn(parameter.shape) * 0.1
    x, t = torch.randn(2, channels, size, size), torch.tensor([5.0, 600.0])
    assert torch.equal(net(x, t), again(x, t))


@pytest.mark.parametrize(
    "name, kwargs, captured",
    [
        ("vae", {"width": 8}, f"vae has no counterpart.*{', '.join(EXPORTED)}"),
        ("ddpm", {"width": 8, "conditional": "text"}, "captions"),
    ],
)
def test_what_does_not_map_is_refused_and_nothing_is_written(name, kwargs, captured, tmp_path):
    run = run_of(tmp_path / "run", name, **kwargs)
    with pytest.raises(UsageError, match=captured):
        export(run, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_with_something_in_it_stays_as_it_is_and_an_empty_one_is_filled(tmp_path):
    run, out = run_of(tmp_path / "run", "ddpm-textbook", **SMALL), tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("x")
    with pytest.raises(UsageError, match="already holds files"):
        export(run, out)
    assert [path.name for path in out.iterdir()] == ["mine.txt"]
    (out / "mine.txt").unlink()
    assert (export(run, out) / WEIGHTS).is_file()
    (out / WEIGHTS).write_bytes(b"damaged")
    with pytest.raises(UsageError, match="Choose another folder, or overwrite"):
        export(run, out)
    assert (export(run, out, overwrite=True) / WEIGHTS).stat().st_size > 100
    (out / "mine.txt").write_text("x")
    with pytest.raises(UsageError, match=r"nothing was touched\. Choose another folder\.$"):
        export(run, out, overwrite=True)
    assert (out / "mine.txt").exists()
    with pytest.raises(UsageError, match="to must be diffusers"):
        export(run, tmp_path / "other", to="onnx")


# In


def theirs(diffusers, path, scheduler="DDPMScheduler", classes=None, **config):
    """A pipeline's folder as diffusers writes it."""
    torch.manual_seed(0)
    net_config = {"sample_size": 8, "in_channels": 1, "out_channels": 1, "block_out_channels": (8, 16)}
    net_config |= {"norm_num_groups": 4, "down_block_types": ("DownBlock2D", "AttnDownBlock2D")}
    net_config |= {"up_block_types": ("AttnUpBlock2D", "UpBlock2D"), "layers_per_block": 1}
    net = diffusers.UNet2DModel(**net_config, num_class_embeds=classes)
    chain = getattr(diffusers, scheduler)(**config)
    diffusers.DDPMPipeline(unet=net, scheduler=chain).save_pretrained(path)
    return net.eval(), diffusers.DDIMScheduler.from_config(chain.config, timestep_spacing="trailing")


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"beta_schedule": "squaredcos_cap_v2", "prediction_type": "v_prediction", "scheduler": "DDIMScheduler"},
        {"num_train_timesteps": 200, "beta_start": 1e-3, "beta_end": 0.04, "prediction_type": "sample"},
    ],
)
def test_a_folder_of_diffusers_draws_its_images_here(diffusers, config, tmp_path):
    net, scheduler = theirs(diffusers, tmp_path / "theirs", **config)
    model = load(import_(tmp_path / "theirs", tmp_path / "run"), "cpu")
    noise = Noise.of_seeds([1, 2])(1, 8, 8)
    x = noise
    scheduler.set_timesteps(10)
    with torch.inference_mode():
        for t in scheduler.timesteps:
            x = scheduler.step(net(x, t).sample, t, x, use_clipped_model_output=True).prev_sample
        ours = model.sample(Given(noise), sampler="ddim", time_grid="uniform", steps=10)
    assert torch.allclose(ours, x.clamp(-1, 1), atol=1e-4)


def test_classes_and_a_lone_network_come_in_too(diffusers, tmp_path):
    net, _ = theirs(diffusers, tmp_path / "theirs", classes=4)
    model = load(import_(tmp_path / "theirs" / "unet", tmp_path / "run"), "cpu")
    assert model.classes == 4 and model.run["data"]["classes"] == ["0", "1", "2", "3"]
    x, t = torch.randn(2, 1, 8, 8), torch.tensor([10, 900])
    expected = net(x, t, class_labels=torch.tensor([3, 0])).sample
    assert torch.allclose(model.net(x, t, torch.tensor([3, 0])), expected, atol=1e-5)
    rows = model.net.class_embedding.weight
    assert torch.allclose(rows[4], rows[:4].mean(0))


@pytest.fixture
def folder(tmp_path):
    """A folder of ours without the note that tells so: what a stranger's looks like."""
    out = export(run_of(tmp_path / "run", "ddpm-textbook", **SMALL), tmp_path / "folder")
    (out / "reverie.json").unlink()
    return out


@pytest.mark.parametrize(
    "note", ["[]", "{}", '{"model": {"name": "ddpm"}}', '{"model": {"name": 3}, "classes": []}', "{"]
)
def test_a_damaged_note_of_an_export_is_an_error(folder, tmp_path, note):
    (folder / "reverie.json").write_text(note)
    with pytest.raises(ReverieError, match="damaged"):
        import_(folder, tmp_path / "in")


def test_weights_under_the_names_of_years_ago_come_in(folder, tmp_path):
    weights = load_file(folder / WEIGHTS)
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    for new, name in old.items():
        weights = {key.replace(f".{new}.", f".{name}."): value for key, value in weights.items()}
    assert (
        sum(key.endswith(".query.weight") for key in weights) == 4
    )  # one on the way down, one in the middle, two on the way up
    kept = load(import_(folder, tmp_path / "kept"), "cpu").state_dict()
    save_file(weights, folder / WEIGHTS)
    assert all(map(torch.equal, kept.values(), load(import_(folder, tmp_path / "old"), "cpu").state_dict().values()))


def test_a_flat_folder_keeps_its_schedule(folder, tmp_path):
    change(folder / "scheduler" / "scheduler_config.json", beta_schedule="squaredcos_cap_v2", num_train_timesteps=50)
    for part in ("unet", "scheduler"):
        for path in (folder / part).iterdir():
            path.rename(folder / path.name)
        (folder / part).rmdir()
    kwargs = import_(folder, tmp_path / "in").info["model"]["kwargs"]
    assert (kwargs["schedule"], kwargs["timesteps"]) == ("cosine", 50)


@pytest.mark.parametrize(
    "key, value",
    [
        ("down_block_types", ["DownBlock2D", "CrossAttnDownBlock2D"]),
        ("up_block_types", ["UpBlock2D", "AttnUpBlock2D"]),
        ("act_fn", "gelu"),
        ("sample_size", [8, 16, 8]),
        ("in_channels", 4),
        ("out_channels", 6),
        ("block_out_channels", [8, 16, 16]),
        ("time_embedding_type", "fourier"),
        ("class_embed_type", "timestep"),
        ("mid_block_type", "UNetMidBlock2DCrossAttn"),
        ("resnet_time_scale_shift", "spatial"),
    ],
)
def test_a_network_that_we_do_not_have_is_refused_by_the_key_s_name(folder, key, value, tmp_path):
    change(folder / "unet" / "config.json", **{key: value})
    with pytest.raises(UsageError, match=f"unet/config.json, {key} is"):
        import_(folder, tmp_path / "in")
    assert not (tmp_path / "in").exists()


@pytest.mark.parametrize(
    "key, value",
    [
        ("_class_name", "FlowMatchEulerDiscreteScheduler"),
        ("beta_schedule", "scaled_linear"),
        ("prediction_type", "flow_prediction"),
        ("trained_betas", [0.1, 0.2]),
        ("rescale_betas_zero_snr", True),
    ],
)
def test_a_chain_that_we_do_not_have_is_refused_by_the_key_s_name(folder, key, value, tmp_path):
    change(folder / "scheduler" / "scheduler_config.json", **{key: value})
    with pytest.raises(UsageError, match=f"scheduler_config.json, {key} is"):
        import_(folder, tmp_path / "in")


def test_another_network_s_folder_and_no_folder_at_all_are_told_apart(folder, tmp_path):
    change(folder / "unet" / "config.json", _class_name="UNet2DConditionModel")
    with pytest.raises(UsageError, match="UNet2DConditionModel"):
        import_(folder, tmp_path / "in")
    with pytest.raises(UsageError, match="is no diffusers folder"):
        import_(tmp_path / "nowhere", tmp_path / "in")


def test_pickles_are_refused_with_the_way_to_convert_them(folder, tmp_path):
    (folder / WEIGHTS).rename((folder / WEIGHTS).with_suffix(".bin"))
    with pytest.raises(UsageError, match=r"there is: diffusion_pytorch_model.bin.*save_pretrained"):
        import_(folder, tmp_path / "in")


def test_damaged_and_unfit_weights_are_refused(folder, tmp_path):
    weights = load_file(folder / WEIGHTS)
    weights["conv_in.weight"] = weights["conv_in.weight"][:, :, :1].contiguous()
    del weights["conv_out.bias"]
    save_file(weights, folder / WEIGHTS)
    with pytest.raises(UsageError, match=r"2 tensors in all: conv_in.weight: \(8, 1, 3, 3\) expected"):
        import_(folder, tmp_path / "in")
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:1000])
    with pytest.raises(ReverieError, match="damaged"):
        import_(folder, tmp_path / "in")
    (folder / "unet" / "config.json").write_text("{")
    shutil.copy(export(Run.open(tmp_path / "run"), tmp_path / "again") / WEIGHTS, folder / WEIGHTS)
    with pytest.raises(ReverieError, match="damaged"):
        import_(folder, tmp_path / "in")
    assert not (tmp_path / "in").exists()


def test_an_imported_run_samples_but_has_no_training_to_go_on_with(folder, tmp_path):
    run = import_(folder, tmp_path / "in")
    with pytest.raises(UsageError, match="already holds a run"):
        import_(folder, tmp_path / "in")
    with pytest.raises(UsageError, match=r"imported.*--init"):
        resume(run.path)
    with pytest.raises(UsageError, match="imported"):
        rerun(run.path, tmp_path / "again")
    with pytest.raises(UsageError, match="data='SOURCE'"):
        data_of(load(run, "cpu"))


def test_the_images_it_was_trained_on_can_be_named(folder, bars, tmp_path):
    model = load(import_(folder, tmp_path / "in", data=bars), "cpu")
    assert len(data_of(model).train) == model.run["data"]["counts"]["train"] > 100
    change(folder / "unet" / "config.json", num_class_embeds=3)
    weights = load_file(folder / WEIGHTS)
    save_file(weights | {"class_embedding.weight": torch.zeros(3, 32)}, folder / WEIGHTS)
    with pytest.raises(UsageError, match=r"has 3 classes, but .* has 2"):
        import_(folder, tmp_path / "classes", data=bars)


def test_the_verbs_export_and_import_say_what_to_do_next(tmp_path, capsys):
    run_of(tmp_path / "run", "ddpm-textbook", **SMALL)
    with pytest.raises(SystemExit) as ended:
        main(["export", str(tmp_path / "run"), str(tmp_path / "out"), "--to", "diffusers", "--json"])
    report = json.loads(capsys.readouterr().out)
    assert ended.value.code == 0 and report["to"] == "diffusers" and "from_pretrained" in report["load"]
    with pytest.raises(SystemExit) as ended:
        main(["import", report["out"], "--out", str(tmp_path / "back")])
    assert ended.value.code == 0 and f"reverie sample {tmp_path / 'back'}" in capsys.readouterr().out
    with pytest.raises(SystemExit) as ended:
        main(["import", str(tmp_path / "nowhere")])
    assert ended.value.code == 2 and "reverie import: " in capsys.readouterr().err

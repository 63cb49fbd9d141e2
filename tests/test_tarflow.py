"""TarFlow against autograd and the naive inverse, its denoising and a learned inverse against closed forms."""

from __future__ import annotations

import json
import math

import pytest
import torch
import tyro
from torch import Tensor, nn

import reverie as rv
from reverie.commands.distill import distill as command
from reverie.commands.make import end_of
from reverie.core import registry
from reverie.core.batch import Batch
from reverie.core.card import Output, card_of
from reverie.core.errors import UsageError
from reverie.core.noise import Noise
from reverie.core.verbs import verbs_of
from reverie.models.flows.base import NormalizingFlow
from reverie.models.flows.student import LearnedInverse
from reverie.models.flows.tarflow import GaussianNoise, TarFlow, tarflow
from reverie.models.gans.base import GAN
from reverie.models.gans.generators import LatentGenerator
from reverie.optim.phase import stages_of
from reverie.probability.autoregression import PatchAutoregression
from reverie.workflow.distill import _student, distill
from reverie.workflow.train import train


def lively(model: nn.Module, scale: float = 0.2) -> nn.Module:
    """Weights away from the start, where every step is the identity."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(scale * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def model(side=8, dtype=torch.float64, scale=0.2, **options) -> TarFlow:
    torch.manual_seed(0)
    return lively(tarflow(side, 1, **{"width": 16, "depths": (1, 1, 1, 1), **options}), scale).to(dtype)


def images(count=3, side=8, dtype=torch.float64) -> Tensor:
    return Noise.of_seeds(range(count))(1, side, side).to(dtype).mul(0.5)


# The transform


@pytest.mark.parametrize("backwards", [False, True])
def test_a_step_is_triangular_over_patches_in_its_own_order(backwards):
    torch.manual_seed(0)
    step = lively(PatchAutoregression((1, 8, 8), 4, 16, 1, 2, backwards=backwards)).double()
    x = images(1)
    jacobian = torch.autograd.functional.jacobian(
        lambda rows: step.to_rows(step(step.from_rows(rows))[0]), step.to_rows(x)
    )
    blocks = jacobian[0, :, :, 0].abs().amax((1, 3))  # (patch of z, patch of x), in the order of the step
    assert blocks.triu(1).max() == 0 and (blocks + torch.ones_like(blocks).triu(1) > 0).all()
    inside = jacobian[0, :, :, 0].permute(0, 2, 1, 3)[range(4), range(4)]  # (patch, pixel of z, pixel of x)
    assert inside.triu(1).abs().max() == 0 and inside.tril(-1).abs().max() > 0


@pytest.mark.parametrize("options", [{"conditional": "label", "classes": 3}, {"patch_size": 2, "depths": (1, 1, 2)}])
def test_the_log_determinant_is_that_of_autograds_jacobian(options):
    flow, label = model(**options).flow, torch.tensor([1]) if "classes" in options else None
    x = images(1)
    _, log_det = flow.transform(x, label)
    jacobian = torch.autograd.functional.jacobian(lambda x: flow.transform(x, label)[0], x).view(64, 64)
    assert log_det.item() == pytest.approx(torch.linalg.slogdet(jacobian).logabsdet.item(), rel=1e-9)


@pytest.mark.parametrize("dtype, error", [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_decoding_inverts_encoding(dtype, error):
    made = model(dtype=dtype, scale=0.1, conditional="label", classes=3)
    x, label = images(4, dtype=dtype).clamp(-1, 1), torch.tensor([0, 1, 2, -1])
    assert (made.decode(made.encode(x, label), label) - x).abs().max() < error


def test_the_inverse_with_a_cache_is_the_inverse_without():
    step, z = model().flow.transform.steps[1], images(2)
    rows, x = step.to_rows(z), torch.zeros_like(step.to_rows(z))
    for i in range(step.count):  # all patches anew for each
        hidden = step.transformer(torch.nn.functional.pad(step.stem(x[:, :-1]), (0, 0, 1, 0)) + step.context(None, 2))
        shift, log_scale = step.terms(hidden, x.dtype)
        mixed = rows[:, i] * log_scale[:, i].exp() + shift[:, i]
        x[:, i] = torch.linalg.solve(torch.eye(16).double() + step.mixing.tril(-1), mixed.T).T
    assert (step.from_rows(x) - step.inverse(z)).abs().max() < 1e-12


def test_directions_alternate_and_the_grid_moves():
    steps = model().flow.transform.steps
    assert [step.backwards for step in steps] == [False, True, False, True]
    assert [step.offset for step in steps] == [0, 2, 0, 2]


def test_bf16_networks_leave_the_log_determinant_in_fp32():
    made = model(dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        z, log_det = made.flow.transform(images(2, dtype=torch.float32))
    assert z.dtype == log_det.dtype == torch.float32


# Sampling


def test_guidance_of_1_is_none_and_more_moves_away_from_the_samples_of_any_class():
    made, noise, label = (
        model(conditional="label", classes=2),
        lambda: Noise.of_seeds(range(3)),
        torch.tensor([0, 1, 0]),
    )
    plain = made.flow.transform.inverse(made.latent(noise()), label)
    of_any = made.flow.transform.inverse(made.latent(noise()), torch.full((3,), -1))
    sampled = made.sample(noise(), label, guidance=1.0, temperature=1.0, denoise=False)
    assert torch.equal(sampled, plain.clamp(-1, 1))
    guided = made.flow.transform.inverse(made.latent(noise()), label, 2.0)
    none = made.flow.transform.inverse(made.latent(noise()), label, 1 + 1e-9)
    assert (none - plain).abs().max() < 1e-6 < (guided - plain).abs().max() and not torch.equal(plain, of_any)


def test_a_step_guided_by_2_has_twice_the_shift_at_its_last_patch():
    """Of networks whose terms depend on the class alone."""
    step = PatchAutoregression((1, 4, 4), 2, 16, 1, 2, classes=2).double()
    terms = {0: 0.5, 2: 0.2}  # the shift of class 0, and of any class

    def shifts(hidden, dtype):
        of_class = torch.where(hidden[:, :, :1] > 0, terms[0], terms[2]).expand(-1, -1, 4).to(dtype)
        return of_class, torch.zeros_like(of_class)

    step.terms, step.transformer.forward = shifts, lambda x, cache=None: x
    nn.init.zeros_(step.positions), nn.init.zeros_(step.stem.weight), nn.init.zeros_(step.stem.bias)
    step.label_embedding.weight.data = torch.tensor([[1.0], [1.0], [-1.0]], dtype=torch.float64).expand(-1, 16).clone()
    rows = step.to_rows(step.inverse(torch.zeros(1, 1, 4, 4).double(), torch.tensor([0]), guidance=2.0))
    assert rows[0, :, 0].tolist() == pytest.approx([0.5, 0.6, 0.7, 0.8])  # 0.2 + (1 ... 2) 0.3


def test_denoising_is_the_posterior_mean_of_a_gaussian():
    """Of a flow whose density is N(m, s^2 + sigma^2), the noisy version of N(m, s^2)."""
    made, mean, deviation = model(depths=(1,), sigma=0.3), 0.2, 0.5
    step, total = made.flow.transform.steps[0], deviation**2 + 0.3**2
    nn.init.zeros_(step.out.weight), nn.init.zeros_(step.mixing)
    raw = 4 * math.atanh(0.5 * math.log(total) / 4)
    step.out.bias.data = torch.tensor([mean] * 16 + [raw] * 16, dtype=torch.float64)
    x = images(2)
    exact = (deviation**2 * x + 0.3**2 * mean) / total
    assert (made.denoised(x) - exact).abs().max() < 1e-12
    assert torch.equal(model(sigma=0.0).denoised(x), x)


def test_a_sample_without_a_label_is_of_a_random_class():
    made = model(conditional="label", classes=3)
    by_seed = made.sample(Noise.of_seeds(range(24)), temperature=1.0, denoise=False)
    noise = Noise.of_seeds(range(24))
    z = made.latent(noise)
    drawn = noise.integers(3)
    assert set(drawn.tolist()) == {0, 1, 2}
    assert torch.equal(by_seed, made.decode(z, drawn))


def test_fifty_seeds_at_a_high_rate_stay_finite():
    x = images(8, 4, torch.float32).clamp(-1, 1)
    for seed in range(50):
        torch.manual_seed(seed)
        made = tarflow(4, 1, width=8, depths=(1, 1), patch_size=2)
        (stage,) = stages_of(made, lr=0.05)
        (phase,) = stage.phases
        for step in range(3):
            loss = made.loss(Batch({"x": x}, Noise.of_step(seed, step, 8)))["loss"]
            loss.backward()
            phase.optimizer.step()
            phase.optimizer.zero_grad()
        assert loss.isfinite() and made.sample(Noise.of_seeds(range(4)), temperature=1.5).isfinite().all()


# The likelihood and its name


def test_the_likelihood_of_noisy_images_is_no_bound_of_8_bit_ones():
    (noisy,) = card_of(model(sigma=0.05)).likelihoods
    assert (noisy.kind, noisy.of, noisy.name) == ("exact", "density", "-noisy")
    assert {(each.kind, each.of) for each in card_of(model(sigma=0.0)).likelihoods} == {("bound", "8-bit")}


def test_log_prob_is_the_density_at_a_noisy_image():
    made, x = model(sigma=0.1), images(4).clamp(-1, 1)
    noisy = x + 0.1 * Noise.of_seeds(range(4))(1, 8, 8).double()
    batch = Batch({"x": x}, Noise.of_seeds(range(4)))
    assert torch.equal(made.log_prob(batch), made.flow.log_density(noisy))


# The learned inverse


class Linear(nn.Module):
    """z = A vec(x), an orthogonal A times a scale: a transform whose inverse is known."""

    def __init__(self, side: int):
        super().__init__()
        self.side = side
        basis = torch.linalg.qr(torch.randn(side**2, side**2, generator=torch.Generator().manual_seed(1))).Q
        self.matrix = nn.Parameter(4.0 * basis)

    def forward(self, x: Tensor, label: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return x.flatten(1) @ self.matrix.T, x.new_full((len(x),), self.side**2 * math.log(4.0))

    def inverse(self, z: Tensor, label: Tensor | None = None) -> Tensor:
        return torch.linalg.solve(self.matrix, z.T).T.reshape(len(z), 1, self.side, self.side)


class Reshaped(nn.Linear):
    """The student of ``Linear``."""

    def forward(self, z: Tensor) -> Tensor:
        return super().forward(z).reshape(len(z), 1, 4, 4)


def linear_student(**options) -> LearnedInverse:
    output = Output("image", (4, 4), 1)
    flow = NormalizingFlow(Linear(4), output, GaussianNoise(0.0))
    gan = GAN(LatentGenerator(Reshaped(16, 16), 16), nn.Linear(1, 1), output)
    return LearnedInverse(flow, gan, adversarial_weight=0.0, **options)


@pytest.mark.parametrize("decoded", [0.0, 0.5])
def test_the_learned_inverse_of_a_linear_flow_is_the_exact_inverse(decoded):
    student = linear_student(paired=1 - decoded, decoded=decoded)
    x = Noise.of_seeds(range(64))(1, 4, 4).mul(0.2).clamp(-1, 1)
    (stage,) = stages_of(student, lr=3e-2)
    (phase,) = stage.phases
    for step in range(400):
        batch = Batch({"x": x}, Noise.of_step(0, step, 64))
        phase.loss(batch, stage.forward(batch))["loss"].backward()
        phase.optimizer.step()
        phase.optimizer.zero_grad()
        phase.optimizer.param_groups[0]["lr"] = 3e-2 * (1 - step / 400)
    z = student.flow.transform(x)[0]
    assert (student.decode(z) - student.teacher.decode(z)).abs().max() < 2e-3


def test_pairs_are_images_and_their_z_and_of_new_z_what_the_flow_decodes():
    student = linear_student(paired=0.25, decoded=0.25)
    x = images(8, 4, torch.float32).clamp(-1, 1)
    z, targets, chosen = student.pairs(Batch({"x": x}), None)
    assert chosen.nonzero()[:, 0].tolist() == [0, 2, 4, 6]
    assert torch.equal(targets[1::2], x[2::4]) and not torch.isclose(targets[::2], x[::4]).any(1).all()
    assert torch.allclose(z[1::2], student.flow.transform(x[2::4])[0])
    assert torch.allclose(student.flow.transform.inverse(z).clamp(-1, 1), targets, atol=1e-5)


@pytest.fixture(scope="module")
def flow_run(bars, tmp_path_factory):
    options = {"width": 16, "depths": (1, 1), "conditional": "label", "steps": 20, "batch_size": 16, "quiet": True}
    return train("tarflow", bars, out=tmp_path_factory.mktemp("flow") / "run", **options)


def test_distilling_a_flow_makes_its_learned_inverse(flow_run, tmp_path, capsys):
    arguments = [str(flow_run.path), "--minutes", "0.02", "--json", "--out", str(tmp_path / "run")]
    tyro.cli(command, args=arguments)
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["run"] == str(tmp_path / "run")
    student, flow = rv.load(tmp_path / "run"), rv.load(flow_run)
    assert card_of(student).likelihoods == () and card_of(student).conditions == {"label": 2}
    teacher = student.teacher.state_dict()
    assert all(torch.equal(teacher[name], weight) for name, weight in flow.state_dict().items())
    assert torch.equal(student.latent(Noise.of_seeds([3])), flow.latent(Noise.of_seeds([3])))
    before = rv.sample(student, 4, label=[0, 1])
    for parameter in student.teacher.parameters():
        parameter.data.fill_(math.nan)
    assert (rv.sample(student, 4, label=[0, 1]) == before).all()


def test_a_finished_flow_is_scored_by_its_density_alone_and_no_single_latent_is_suggested(flow_run, capsys):
    assert list(flow_run.info["held_out"]) == ["nll-noisy-density"]  # not by errors of rounding
    end_of(flow_run, False)
    advice = capsys.readouterr().out.splitlines()[-1]
    assert "interpolate" in advice and "traverse" not in advice


@pytest.mark.parametrize("name", ["glow", "spline-flow"])
def test_coupling_flows_are_distilled_too(name, bars, tmp_path):
    options = {"steps": 2, "batch_size": 16, "quiet": True}
    flow = train(name, bars, out=tmp_path / "flow", width=8, couplings=2, **options)
    assert list(flow.info["held_out"]) == ["bits-per-dim-bound", "nll-bound"]
    run = train(
        "learned-inverse", bars, out=tmp_path / "quick", teacher=str(flow.path), decoded=0.5, width=8, **options
    )
    assert rv.sample(run, 3).shape == (3, 8, 8, 1)


# Wrong use


@pytest.mark.parametrize("options, option", [({"guidance": 2.0}, "guidance"), ({"steps": 4}, "steps")])
def test_options_of_other_students_are_refused(flow_run, options, option):
    with pytest.raises(UsageError, match=f"{option}.* is no option of learned-inverse.*reverie train learned-inverse"):
        distill(flow_run, quiet=True, **options)


def test_the_card_decides_which_student_a_run_gets(flow_run):
    assert _student(flow_run.info, {}) == ("learned-inverse", {})
    assert _student(flow_run.info, {"direction": "1"}) == ("editor", {"direction": "1"})
    for name, kwargs in {"flow-matching": {"width": 8}, "r3gan": {"width": 8}, "vae": {"width": 8}}.items():
        model = registry.build(name, shape=8, channels=1, classes=2, **kwargs)
        info = {"model": model.config, "verbs": verbs_of(model), "card": card_of(model).to_json()}
        assert _student(info, {"steps": 2}) == ("distilled", {"student_steps": 2})


TEACHER = {"name": "tarflow", "kwargs": {"shape": 8, "channels": 1, "classes": 5, "width": 16}, "run": "runs/flow"}


@pytest.mark.parametrize(
    "name, options, message",
    [
        ("learned-inverse", {}, "no teacher.*reverie distill RUN"),
        ("learned-inverse", {"teacher": {"name": "vae", "kwargs": {"shape": 8, "channels": 1}}}, "no exact z.*tarflow"),
        (
            "learned-inverse",
            {"teacher": TEACHER | {"kwargs": TEACHER["kwargs"] | {"conditional": "label"}}},
            "knows 5 classes",
        ),
        ("learned-inverse", {"teacher": TEACHER, "mse_weight": 0.0, "adversarial_weight": 0.0}, "cannot both be 0"),
        ("tarflow", {"patch_size": 3}, "patch_size=3 does not divide 8. Here it can be 1, 2, 4, 8"),
        ("tarflow", {"conditional": "label", "classes": 0}, "at least two classes"),
    ],
)
def test_what_cannot_be_built_is_refused(name, options, message):
    with pytest.raises(UsageError, match=message):
        registry.build(name, **{"shape": 8, "channels": 1, "classes": 2} | options)


def test_guidance_without_classes_is_refused():
    with pytest.raises(UsageError, match="this model has none"):
        model().sample(Noise.of_seeds([0]), guidance=2.0)
    with pytest.raises(UsageError, match="Labels run from 0 to 1"):
        model(conditional="label", classes=2).sample(Noise.of_seeds([0]), label=torch.tensor([2]))

"""Two ranks train what one process trains: one launch of two processes, every model, in float64."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor

from engine_cases import CASES, apart, build, doubles, engine, every_case, state_of, walk
from reverie.core import distributed

STEPS = 3  # of each stage
IN_PARTS = ("cyclegan", "dcgan-ada-hinge", "stylegan2", "rbm", "dbn", "tokens", "l-bfgs")  # on two ranks also in parts
BATCH = 16  # two ranks have two groups of four images each


def trained(
    rank: int = 0, ranks: int = 1, parts: int = 1, cases: Iterable[str] = CASES
) -> dict[str, dict[str, Tensor]]:
    """The state of each case after a few steps: pools, ADA, lazy phases, chains and codebooks at work."""
    states = {}
    for case in cases:
        with doubles():
            trainer = engine(case, build(case).double(), BATCH, rank, ranks, accumulate=parts)
            metrics = walk(trainer, STEPS)
            states[case] = state_of(trainer)
        if case == "tokens":
            assert sum(float(single.get("tokens/update/revived", 0)) for single in metrics) > 0
    return states


def messages(rank: int) -> dict[str, Any]:
    """What the functions of ``core.distributed`` make of values that differ between the ranks."""
    rows = torch.arange(4) + 4 * rank
    columns = {
        "int": rows,
        "float": rows.float()[:, None],
        "bf16": rows.bfloat16(),
        "bool": rows % 3 == 0,
        "double": rows.double(),
        "last": rows.float().view(4, 1, 1, 1).expand(4, 3, 2, 2).contiguous(memory_format=torch.channels_last),
        "text": [f"{row}" for row in rows.tolist()],
    }
    mean = [torch.full((2,), float(rank)), torch.full((), 1.0 + rank, dtype=torch.float64), torch.ones(1) * rank]
    distributed.average(mean)
    same = torch.full((2, 3, 4, 4), float(rank)).contiguous(memory_format=torch.channels_last)
    distributed.same_start([same])
    gathered = distributed.gather(columns)
    text = gathered.pop("text")
    return {
        "text": text,
        "gathered": {k: [str(v.dtype), v.double().reshape(8, -1).mean(1).tolist()] for k, v in gathered.items()},
        "mean": [m.mean().item() for m in mean],
        "same": same.unique().tolist(),
        "rows": distributed.rows(6),
        "agreed": distributed.agree({"word": rank}),
        "any": distributed.any_rank(rank == 1, torch.device("cpu")),
    }


def work(rank: int, folder: str) -> None:
    """What each of the two processes does."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    Path(folder, f"messages-{rank}.json").write_text(json.dumps(messages(rank)))
    torch.save([trained(rank, 2), trained(rank, 2, 2, IN_PARTS)], Path(folder, f"{rank}.pt"))
    dist.barrier()
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def launched(tmp_path_factory) -> tuple[dict[str, Any], list[dict[str, Any]], list[dict[str, Any]]]:
    """States of one process, of each of two ranks, and the ranks' messages."""
    folder = tmp_path_factory.mktemp("ranks")
    processes = mp.start_processes(work, (str(folder),), 2, join=False, start_method="fork")
    single = trained()
    until = time.monotonic() + 120
    while not processes.join(timeout=1):
        assert time.monotonic() < until, "two ranks hang"
    two = [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]
    return single, two, [json.loads((folder / f"messages-{rank}.json").read_text()) for rank in range(2)]


@every_case
def test_two_ranks_train_what_one_process_trains(case, launched):
    """Parameters, buffers, average, moments; and the ranks end with the same bits."""
    single, two, _ = launched
    for first, second in zip(*two, strict=True):  # without parts, and with
        if case in first:
            assert apart(first[case], second[case]) == {}
            assert apart(single[case], first[case], 1e-8) == {}


def test_columns_of_every_type_are_gathered_in_global_order_and_means_and_first_values_are_the_same(launched):
    *_, (first, second) = launched
    assert first.pop("rows") == [0, 3] and second.pop("rows") == [3, 3] and first == second
    gathered, count = first["gathered"], list(range(8))
    assert first["text"] == [f"{row}" for row in count]
    assert gathered.pop("bool") == ["torch.bool", [row % 3 == 0 for row in count]]
    types = {"int": "int64", "float": "float32", "bf16": "bfloat16", "double": "float64", "last": "float32"}
    assert gathered == {name: [f"torch.{kind}", count] for name, kind in types.items()}
    assert first["mean"] == [0.5, 1.5, 0.5] and first["same"] == [0.0] and first["agreed"] == {"word": 0}
    assert first["any"] is True

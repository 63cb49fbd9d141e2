"""Does this checkout train as fast as another commit, and in as little memory? Whole training loops, in one run.

Both sides run `reverie train` with the same options, each time in a process of its own: this checkout, and a temporary
worktree of the peer commit. They take turns, several rounds, so that a machine that others use as well is fair to both.
A process is ended when all its steps but the last few are done: scores and images at the end are not training, and
previews and checkpoints are switched off. Speed is that of all lines of metrics.jsonl after the first ones, images over
seconds (so lazy penalties and levels count by their time), a median over rounds; memory is the largest resident set of
the process, likewise. Widths and batches are named, since recipes may change between commits; options are spelled as
both commits spell them.

The last line is the smallest ratio of speeds, this checkout over the peer. A peer equal to this checkout shows the
noise: `--peer HEAD`.

Run:  python benchmarks/engine_step.py [--peer 64ae4f0] [--only vae,stylegan2] [--rounds 5]
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LINES, WARM_UP = 40, 2  # of metrics.jsonl
SYSTEMS = {  # steps, about 15 seconds on two cores, and options
    "vae": (320, "--data fashion --batch-size 128 --latent 20 --width 32"),
    "flow-matching": (80, "--data fashion --batch-size 64 --width 64 --depth 1"),
    "dcgan": (
        80,
        "--data emoji --size 32 --batch-size 64 --width 64 "
        "--loss non-saturating --r1 0.1 --penalty-every 4 --d-augment ada",
    ),
    "r3gan": (400, "--data fashion --batch-size 32 --width 32 --loss r3 --penalty-every 4"),
    "stylegan2": (
        120,
        "--data emoji --size 32 --batch-size 32 --width 32 --latent 128 "
        "--r1 0.1 --penalty-every 16 --path 2 --path-every 4 --d-augment ada",
    ),
    "latent-diffusion": (120, "--data fashion --batch-size 64 --width 128 --depth 2 --codec-width 64"),
    "pix2pix": (400, "--data fashion --batch-size 8 --task lines --width 48 --depth 1"),
    "progan": (160, "--data emoji --size 32 --batch-size 32 --width 16 --loss r3 --penalty-every 4"),
}


@contextmanager
def worktree(commit: str, folder: Path) -> Iterator[Path]:
    """A checkout of the commit, for as long as it is needed."""
    git = ["git", "-C", str(ROOT), "worktree"]
    subprocess.run([*git, "add", "--quiet", "--detach", str(folder), commit], check=True)
    try:
        yield folder
    finally:
        subprocess.run([*git, "remove", "--force", str(folder)], check=True)


def environment(side: Path) -> dict[str, str]:
    """Variables with which Python imports reverie from a checkout; a SystemExit where it does not."""
    env = os.environ | {"PYTHONPATH": str(side / "src")}
    command = [sys.executable, "-c", "import reverie; print(reverie.__file__)"]
    module = subprocess.run(command, env=env, check=True, capture_output=True, text=True).stdout
    if not Path(module).resolve().is_relative_to(side.resolve()):
        raise SystemExit(f"Python imports {module.strip()}, not the reverie of {side}.")
    return env


def train(system: str, env: dict[str, str], device: str) -> tuple[float, float]:
    """Images a second after the warm-up, and the peak of the process's memory in MiB."""
    steps, options = SYSTEMS[system]
    never = str(10**9)
    with tempfile.TemporaryDirectory() as folder, (Path(folder) / "messages").open("w+") as messages:
        run = Path(folder) / "run"
        command = [sys.executable, "-m", "reverie", "train", system, *options.split(), "--steps", str(steps)]
        command += ["--log-every", str(steps // LINES), "--sample-every", never, "--checkpoint-every", never]
        command += ["--device", device, "--out", str(run)]
        child = subprocess.Popen(command, env=env, stdout=messages, stderr=messages)
        asked, ended = False, 0
        while not ended:
            time.sleep(0.05)
            if not asked and len(speeds(run)) >= LINES - 1:
                child.send_signal(signal.SIGTERM)  # stops cleanly after its step
                asked = True
            ended, status, usage = os.wait4(child.pid, os.WNOHANG)  # unlike getrusage, of this child alone
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode:
            messages.seek(0)
            raise SystemExit(f"{' '.join(command)} failed:\n{messages.read()}")
        unit = 2**20 if sys.platform == "darwin" else 2**10  # of ru_maxrss
        return statistics.harmonic_mean(speeds(run)[WARM_UP : LINES - 1]), usage.ru_maxrss / unit


def speeds(run: Path) -> list[float]:
    """Images a second, line by line."""
    log = run / "metrics.jsonl"
    lines = log.read_text().splitlines(keepends=True) if log.exists() else []
    return [json.loads(line)["images_per_second"] for line in lines if line.endswith("\n")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", default="64ae4f0", help="a commit of this repository")
    parser.add_argument("--only", default=",".join(SYSTEMS), help="some of the systems, with commas")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    args = parser.parse_args()
    systems, start, ratios = args.only.split(","), time.monotonic(), []
    if unknown := set(systems) - SYSTEMS.keys():
        parser.error(f"unknown: {', '.join(unknown)}; known: {', '.join(SYSTEMS)}")
    with tempfile.TemporaryDirectory() as folder, worktree(args.peer, Path(folder) / "peer") as peer:
        sides = {"new": environment(ROOT), args.peer: environment(peer)}
        for number, system in enumerate(systems):
            results: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
            for turn in range(args.rounds):
                for name, env in sides.items():
                    results[name].append(train(system, env, args.device))
                done = (number * args.rounds + turn + 1) / (len(systems) * args.rounds)
                left = (time.monotonic() - start) * (1 / done - 1)
                print(f"{system}: round {turn + 1} of {args.rounds}, {left / 60:.0f} min left", file=sys.stderr)
            medians = {
                name: [statistics.median(values) for values in zip(*results[name], strict=True)] for name in sides
            }
            speed, memory = (new / old for new, old in zip(*medians.values(), strict=True))
            ratios.append(speed)
            print(f"{system}: speed {speed:.3f}, memory {memory:.3f} times")
            for name, (images, peak) in medians.items():
                rounds = ", ".join(f"{value:.0f}" for value, _ in results[name])
                print(f"  {name:8} {images:7.1f} images/s (rounds {rounds}), peak {peak:,.0f} MiB", flush=True)
    print(f"ratio: {min(ratios):.2f}")


if __name__ == "__main__":
    main()

"""Does this checkout train as fast as another commit, and in as little memory? Whole training loops, in one run.

Both sides run `reverie train` with the same options, each in a process of its own: this checkout, and a temporary
worktree of the peer commit. They take turns, from one line of metrics.jsonl to the next (about a third of a second),
while the other process is paused: whatever else the machine does meets both. Previews and checkpoints are switched off,
and a process is stopped before its last line, so that no final scores and images are measured. What happens between
two lines is the same work in every round: its time is a median over the rounds, and a speed is all images over the sum
of those times, the first lines left out, so that lazy phases and stages count as much as they take. Memory is the
largest resident set of the process, a median over the rounds.

Widths and batches are named, since recipes may change between commits; options are spelled as both commits spell them.
The last line is the smallest ratio of speeds, this checkout over the peer. `--peer HEAD` shows the noise.

Run:  python benchmarks/engine_step.py [--peer 64ae4f0] [--only vae,stylegan2] [--rounds 5]
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LINES, WARM_UP = 40, 2  # of metrics.jsonl
SYSTEMS = {  # steps (about 15 seconds on two cores), batch size, options
    "vae": (320, 128, "--data fashion --latent 20 --width 32"),
    "flow-matching": (80, 64, "--data fashion --width 64 --depth 1"),
    "dcgan": (
        80,
        64,
        "--data emoji --size 32 --width 64 --loss non-saturating --r1 0.1 --penalty-every 4 --d-augment ada",
    ),
    "r3gan": (400, 32, "--data fashion --width 32 --loss r3 --penalty-every 4"),
    "stylegan2": (
        120,
        32,
        "--data emoji --size 32 --width 32 --r1 0.1 --penalty-every 16 --path 2 --path-every 4 --d-augment ada",
    ),
    "latent-diffusion": (120, 64, "--data fashion --width 128 --depth 2 --codec-width 64"),
    "pix2pix": (400, 8, "--data fashion --task lines --width 48 --depth 1"),
    "progan": (160, 32, "--data emoji --size 32 --width 16 --loss r3 --penalty-every 4"),
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


class Training:
    """`reverie train` in a process of its own, which is paused except in its turns."""

    def __init__(self, system: str, env: dict[str, str], device: str, folder: Path):
        self.log, self.messages = folder / "run" / "metrics.jsonl", folder / "messages"
        steps, batch, options = SYSTEMS[system]
        command = [sys.executable, "-m", "reverie", "train", system, *options.split(), "--steps", str(steps)]
        command += ["--batch-size", str(batch), "--log-every", str(steps // LINES), "--device", device]
        command += ["--sample-every", str(10**9), "--checkpoint-every", str(10**9), "--out", str(self.log.parent)]
        with self.messages.open("w") as stream:
            self.process = subprocess.Popen(command, env=env, stdout=stream, stderr=stream)
        self.process.send_signal(signal.SIGSTOP)

    def __enter__(self) -> Training:
        return self

    def __exit__(self, *error: object) -> None:
        self.process.kill()  # a paused process would wait forever; one that has ended stays as it is

    def turn(self) -> float:
        """Train until the log has grown by a line, and return the seconds that this took."""
        before, start = self.logged(), time.perf_counter()
        self.process.send_signal(signal.SIGCONT)
        while self.logged() == before:
            if self.process.poll() is not None:
                raise SystemExit(f"{' '.join(self.process.args)} failed:\n{self.messages.read_text()}")
            time.sleep(0.002)
        self.process.send_signal(signal.SIGSTOP)
        return time.perf_counter() - start

    def logged(self) -> int:
        """Bytes in the log."""
        return self.log.stat().st_size if self.log.exists() else 0

    def stop(self) -> float:
        """Let the process stop cleanly, and return the peak of its memory in MiB."""
        for number in (signal.SIGTERM, signal.SIGCONT):
            self.process.send_signal(number)
        _, status, usage = os.wait4(self.process.pid, 0)  # unlike getrusage, of this process alone
        self.process.returncode = os.waitstatus_to_exitcode(status)
        return usage.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def measure(system: str, sides: dict[str, dict[str, str]], device: str) -> dict[str, tuple[list[float], float]]:
    """One round: for each side the seconds from line to line after the warm-up, and the peak of memory in MiB."""
    with ExitStack() as stack:
        folders = {name: Path(stack.enter_context(tempfile.TemporaryDirectory())) for name in sides}
        trainings = {
            name: stack.enter_context(Training(system, env, device, folders[name])) for name, env in sides.items()
        }
        turns = [[training.turn() for training in trainings.values()] for _ in range(LINES - 1)]
        seconds = zip(*turns[WARM_UP:], strict=True)
        return {name: (list(times), trainings[name].stop()) for name, times in zip(trainings, seconds, strict=True)}


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
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # what is paused or temporary must not stay behind
    with tempfile.TemporaryDirectory() as folder, worktree(args.peer, Path(folder) / "peer") as peer:
        sides = {"new": environment(ROOT), args.peer: environment(peer)}
        for number, system in enumerate(systems):
            steps, batch, _ = SYSTEMS[system]
            images = steps // LINES * batch  # from line to line
            rounds = []
            for turn in range(args.rounds):
                rounds.append(measure(system, sides, args.device))
                done = (number * args.rounds + turn + 1) / (len(systems) * args.rounds)
                left = (time.monotonic() - start) * (1 / done - 1)
                print(f"{system}: round {turn + 1} of {args.rounds}, {left / 60:.0f} min left", file=sys.stderr)
            speed, memory = {}, {}
            for name in sides:
                seconds, peaks = zip(*(entry[name] for entry in rounds), strict=True)
                speed[name] = images / statistics.mean(map(statistics.median, zip(*seconds, strict=True)))
                memory[name] = statistics.median(peaks)
                each = ", ".join(f"{images / statistics.mean(times):.0f}" for times in seconds)
                print(f"{system}, {name}: {speed[name]:.1f} images/s (rounds {each}), peak {memory[name]:.0f} MiB")
            ratios.append(speed["new"] / speed[args.peer])
            print(f"{system}: speed {ratios[-1]:.3f}, memory {memory['new'] / memory[args.peer]:.3f} times", flush=True)
    print(f"ratio: {min(ratios):.2f}")


if __name__ == "__main__":
    main()

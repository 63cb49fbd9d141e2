"""Intake: JPEG files to data ready for training, against Pillow alone, ImageFolder and datasets, in one run.

    python benchmarks/intake.py [--images 20000] [--size 64] [--wide 400-640] [--memory 1000,20000]

The script makes the folder (``dead_leaves.py``: ten classes, JPEG quality 85) and removes it afterwards; its files are
in the page cache for all. Every measurement is a process of its own, without the time of its imports:

- Pillow alone: open, draft, crop, Lanczos, as intake needs them, on a part of the files, by one process and by two at
  once; before and after every other measurement.
- reverie: ``open_data`` into an empty cache folder: read, hash, decode, find near duplicates, split, store; and opened
  once more.
- torchvision's ImageFolder with a DataLoader of two workers, and datasets' imagefolder with ``map`` in two processes:
  decode and shrink, without hashes and near duplicates, by their usual bilinear filter and by our Lanczos.
- Batches of 128 to train on: of the store, and of that DataLoader, which decodes in every epoch.
- Memory: the peak of a process that opens few and many small files.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

BATCH = 128
PROBE = 500  # files of one measurement of Pillow alone, and of each of its processes
FILTERS = ("bilinear", "lanczos")

Result = dict[str, Any]


# In the processes of the measurements


def pillow_alone(folder: str, size: int, part: int, parts: int, draft: bool) -> Result:
    """Decode every ``parts``-th of some files as intake does: draft, the centre, Lanczos, an array."""
    import numpy as np
    from PIL import Image

    paths = sorted(Path(folder).rglob("*.jpg"))
    paths = paths[part :: max(parts, len(paths) // PROBE)]
    began, used = time.perf_counter(), processor()
    for path in paths:
        with Image.open(path) as image:
            if draft:
                image.draft(None, (4 * size, 4 * size))
            width, height = image.size
            side = min(width, height)
            box = ((width - side) / 2, (height - side) / 2, (width + side) / 2, (height + side) / 2)
            np.asarray(image.resize((size, size), Image.Resampling.LANCZOS, box=box))
    return {"images": len(paths), "seconds": time.perf_counter() - began, "processor": processor() - used}


def ours(folder: str, size: int) -> Result:
    """Open into an empty cache folder, open again, and draw batches."""
    import reverie as rv
    from reverie.data import layouts, store  # noqa: F401  # not timed
    from reverie.data.batches import Batches

    last: dict[str, float] = {}
    began, used = time.perf_counter(), processor()
    data = rv.open_data(folder, size=size, progress=lambda done, total, what: last.update({what: time.perf_counter()}))
    end, used = time.perf_counter(), processor() - used
    rv.open_data(folder, size=size)
    again = time.perf_counter() - end
    batches, drawn = Batches(data.train, BATCH, seed=0), 0
    started = time.perf_counter()
    while time.perf_counter() < started + 3:
        batches(drawn)
        drawn += 1
    stages = {
        "list, read and hash": last["reading"] - began,
        "decode and store": last["decoding"] - last["reading"],
        "near duplicates, split, digests": end - last["decoding"],
    }
    rate = drawn * BATCH / (time.perf_counter() - started)
    images = len(data.train) + len(data.held_out)
    times = {"seconds": end - began, "processor": used, "again": again, "stages": stages}
    return {"images": images, "rate": rate, "report": data.report.counts(), **times}


def torchvision(folder: str, size: int, filter_name: str) -> Result:
    """One epoch of a DataLoader."""
    from peers.imagefolder import timed, torchvision_batches

    used = processor()
    images, seconds, first = timed(torchvision_batches(Path(folder), size, BATCH, filter_name))
    rate = (images - BATCH) / (seconds - first)
    return {"images": images, "seconds": seconds, "processor": processor() - used, "rate": rate}


def datasets(folder: str, size: int, filter_name: str, cache: str) -> Result:
    """An Arrow file of pixels."""
    import datasets  # noqa: F401  # not timed
    from peers.imagefolder import datasets_intake

    began, used = time.perf_counter(), processor()
    images = datasets_intake(Path(folder), size, filter_name, Path(cache))
    return {"images": images, "seconds": time.perf_counter() - began, "processor": processor() - used}


def memory(folder: str, size: int) -> Result:
    """Peak memory in bytes after the imports, and after opening."""
    import reverie as rv
    from reverie.data import layouts, store  # noqa: F401

    before = peak()
    began = time.perf_counter()
    data = rv.open_data(folder, size=size)
    images = len(data.train) + len(data.held_out)
    return {"images": images, "before": before, "peak": peak(), "seconds": time.perf_counter() - began}


def processor() -> float:
    """Seconds of processor time of this process and its ended children."""
    import resource

    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def peak() -> int:
    """Peak resident memory of this process in bytes."""
    try:  # ru_maxrss of Linux is also that of the parent before exec
        status = Path("/proc/self/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) << 10
    except OSError:
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


WORK = {function.__name__: function for function in (pillow_alone, ours, torchvision, datasets, memory)}


# In the main process


def measure(scratch: Path, peers: Path, *calls: Sequence[Any]) -> list[Result]:
    """The results of functions of ``WORK``, each in a process of its own, all at once."""
    home = tempfile.mkdtemp(dir=scratch)
    path = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH", ""), str(peers)]))
    environment = os.environ | {"REVERIE_HOME": home, "PYTHONPATH": path, "PYTHONWARNINGS": "ignore"}
    environment |= {"HF_HUB_OFFLINE": "1", "HF_HOME": home, "HF_DATASETS_CACHE": home}
    command = [sys.executable, __file__, "--work"]
    children = [
        subprocess.Popen([*command, json.dumps(call)], env=environment, stdout=subprocess.PIPE, text=True)
        for call in calls
    ]
    outputs = [child.communicate()[0] for child in children]
    shutil.rmtree(home, ignore_errors=True)
    if failed := [call[0] for call, child in zip(calls, children, strict=True) if child.returncode]:
        raise SystemExit(f"{failed[0]} failed.")
    return [json.loads(output.splitlines()[-1]) for output in outputs]


def speed(result: Result) -> float:
    """Images a second."""
    return float(result["images"] / result["seconds"])


def cost(result: Result) -> float:
    """Milliseconds of processor time an image."""
    return float(1000 * result["processor"] / result["images"])


def compare(folder: Path, scratch: Path, peers: Path, size: int, cores: int) -> None:
    """Measure all, print the table, and as its last line the ratio of intake to the faster peer."""
    where, one, together = str(folder), list[Result](), list[float]()

    def probe() -> None:
        one.extend(measure(scratch, peers, ("pillow_alone", where, size, 0, 1, True)))
        several = [("pillow_alone", where, size, part, cores, True) for part in range(cores)]
        together.append(sum(speed(result) for result in measure(scratch, peers, *several)))

    plain = measure(scratch, peers, ("pillow_alone", where, size, 0, 1, False))[0]
    probe()
    mine = measure(scratch, peers, ("ours", where, size))[0]
    probe()
    theirs: dict[str, Result] = {}
    for name in FILTERS:
        theirs[f"ImageFolder, {name}"] = measure(scratch, peers, ("torchvision", where, size, name))[0]
        cache = tempfile.mkdtemp(dir=scratch)
        theirs[f"datasets, {name}"] = measure(scratch, peers, ("datasets", where, size, name, cache))[0]
        shutil.rmtree(cache)
        probe()
    bound, at_once = statistics.median(map(speed, one)), statistics.median(together)
    costs = statistics.median(map(cost, one))
    print(f"{'':34} images/s    processor ms an image")
    print(f"{'Pillow alone, one process':34} {bound:8.1f}    {costs:6.2f}")
    print(f"{'  without draft':34} {speed(plain):8.1f}    {cost(plain):6.2f}")
    print(f"{f'  {cores} processes at once':34} {at_once:8.1f}    from {min(together):.0f} to {max(together):.0f}")
    for name, result in {"reverie, cold": mine, **theirs}.items():
        print(f"{name:34} {speed(result):8.1f}    {cost(result):6.2f}")
    stages = ", ".join(f"{stage} {seconds:.2f}" for stage, seconds in mine["stages"].items())
    print(f"reverie, seconds: {stages}; opened again {mine['again']:.2f}; report {mine['report']}")
    print(
        f"intake, of {cores} x Pillow alone: {speed(mine) / cores / bound:.2f}; of {cores} at once: "
        f"{speed(mine) / at_once:.2f}; by processor time: {costs / cost(mine):.2f}"
    )
    loader = max(result["rate"] for result in theirs.values() if "rate" in result)
    print(
        f"batches of {BATCH}, images/s: reverie {mine['rate']:,.0f}, ImageFolder {loader:,.0f}, "
        f"ratio {mine['rate'] / loader:.1f}"
    )
    equal = max(speed(result) for name, result in theirs.items() if name.endswith(FILTERS[1]))
    print(f"intake, ratio to the faster peer by our filter: {speed(mine) / equal:.2f}")
    print(f"ratio: {speed(mine) / max(map(speed, theirs.values())):.2f}")


def compare_memory(counts: list[int], scratch: Path) -> None:
    """Print the peak memory of opening so many small files."""
    from dead_leaves import make_folder

    results = []
    for count in counts:
        folder = scratch / f"small-{count}"
        make_folder(folder, count, (40, 44))
        (result,) = measure(scratch, scratch, ("memory", str(folder), 16))
        results.append(result)
        shutil.rmtree(folder)
        grown = f"{result['before'] / 2**20:.0f} MiB after imports, peak {result['peak'] / 2**20:.0f} MiB"
        print(f"memory, {result['images']:,} images: {grown}; {speed(result):,.0f} images/s")
    first, last = results[0], results[-1]
    growth = (last["peak"] - first["peak"]) / max(last["images"] - first["images"], 1)
    print(f"memory, growth: {growth:.0f} bytes an image")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--wide", default="400-640", help="least and most width of the files' images, in pixels")
    parser.add_argument("--memory", default="1000,20000", help='numbers of small files; "" for no such measurement')
    parser.add_argument("--only", choices=["speed", "memory"], help="measure one of the two")
    arguments = parser.parse_args()
    from dead_leaves import make_folder

    from reverie.core.cache import home
    from reverie.media.budget import threads

    cores = threads() - 1
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        if arguments.memory and arguments.only != "speed":
            compare_memory([int(count) for count in arguments.memory.split(",")], scratch)
        if arguments.only != "memory":
            from peers.imagefolder import fetch

            peers = home() / "benchmarks" / "intake-peers"
            fetch(peers)
            low, high = map(int, arguments.wide.split("-"))
            began = time.perf_counter()
            size = make_folder(scratch / "images", arguments.images, (low, high), cores)
            os.sync()
            made = time.perf_counter() - began
            each = size / arguments.images / 1024
            print(f"{arguments.images:,} JPEG files, {low} to {high} wide, of {each:.0f} KiB; made in {made:.0f} s")
            compare(scratch / "images", scratch, peers, arguments.size, cores)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--work"]:
        name, *rest = json.loads(sys.argv[2])
        print(json.dumps(WORK[name](*rest)))
    else:
        main()

"""What a user gets who installs a wheel, and arrows that only run downwards."""

from __future__ import annotations

import ast
import subprocess
import sys
import zipfile
from pathlib import Path

import reverie

ROOT = Path(reverie.__file__).parent


def test_a_built_wheel_carries_pictures_licences_and_recipes(tmp_path):
    project = ROOT.parents[1]
    code = "import sys; from hatchling.build import build_wheel; print(build_wheel(sys.argv[1]))"
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=project, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    wheel = next(tmp_path.glob("*.whl"))
    with zipfile.ZipFile(wheel) as archive:
        names = {name.removeprefix("reverie/"): archive.getinfo(name).file_size for name in archive.namelist()}
    shipped = [p for p in ROOT.rglob("*") if p.is_file() and "__pycache__" not in p.parts]
    assert {str(p.relative_to(ROOT)) for p in shipped} <= set(names)
    assert any(name.startswith("recipes/") and name.endswith(".toml") for name in names)
    bundled = {name: size for name, size in names.items() if name.startswith("data/bundled/")}
    assert any("LICENSE" in name for name in bundled) and sum(bundled.values()) <= 12_000_000
    unpacked = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(unpacked)
    use = "import reverie as rv; d = rv.data('fashion'); print(rv.__file__, len(d.train))"
    done = subprocess.run(
        [sys.executable, "-c", use], cwd=tmp_path, env={"PYTHONPATH": str(unpacked)}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(str(unpacked)) and int(done.stdout.split()[-1]) >= 12_000


RANKS = [  # a file may import from its own rank and from those above it in this list
    {"core", "home", "fetching", "recipes", ""},
    {"media"},
    {"data", "optim", "nets", "weights", "drawing"},
    {"diffusion"},
    {"adversarial"},
    {"models", "registry"},
    {"training"},
    {"metrics", "editing"},
    {"generation", "evaluation", "interop"},
    {"workflow"},
    {"commands", "cli", "__main__"},
]


def imports(path: Path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "reverie":
            names = [f"{node.module}.{a.name}" for a in node.names] if node.module == "reverie" else [node.module]
            yield from (n.removeprefix("reverie").lstrip(".") for n in names)


def test_arrows_run_downwards_and_nets_import_nothing_of_ours():
    level = {room: index for index, rooms in enumerate(RANKS) for room in rooms}
    upward = []
    for path in ROOT.rglob("*.py"):
        parts = path.relative_to(ROOT).with_suffix("").parts
        room = "" if parts == ("__init__",) else parts[0]
        for target in imports(path):
            there = target.split(".")[0]
            if room == "" or there == "__version__":
                continue
            if level.get(there, 0) > level[room]:
                upward.append(f"{path.relative_to(ROOT)} -> {target}")
            if room == "nets" and there not in ("nets", "core"):
                upward.append(f"{path.relative_to(ROOT)} -> {target}")
            if room == "training" and there == "models":
                upward.append(f"{path.relative_to(ROOT)} -> {target}")
    assert not upward


def test_torchvision_is_never_imported():
    assert not [p for p in ROOT.rglob("*.py") if "import torchvision" in p.read_text()]

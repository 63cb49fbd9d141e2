"""A built wheel holds everything that the package needs."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import reverie

ROOT = Path(reverie.__file__).parent


def test_a_built_wheel_carries_images_licences_tables_and_recipes(tmp_path):
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


def test_torchvision_is_never_imported():
    assert not [p for p in ROOT.rglob("*.py") if "import torchvision" in p.read_text()]

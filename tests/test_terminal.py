"""Names from data, runs and files reach the terminal as printable text, and printed commands can be pasted."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import subprocess
import sys
import unicodedata
import warnings
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from reverie.cli import main
from reverie.commands import shared
from reverie.core.errors import ReverieError
from reverie.core.files import quoted
from reverie.core.terminal import printable, say

NAMES = (  # of files, classes and captions
    "\x1b]0;owned\x07\x1b[31mred",
    "two\nreverie: done",
    "gone\rhere",
    "\u202egnp.exe\u2066",
    "[red]",
    "a[/bold]b",
    ":smile:",
    "caf\udce9",
    "c1\x9b2J\x7f",
    'it\'s \\ "odd"',
    "-n",
    "x" * 255,
)
SMALL = ("--net", "dense", "--hidden", 8, "--latent", 2, "--batch-size", 4, "--steps", 1)


def is_printable(text: str) -> bool:
    return all(line == printable(line) for line in text.split("\n"))


def save(path, seed):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8)).save(path)


@pytest.fixture(scope="module")
def folder(home, tmp_path_factory):
    """Two images of a class of each name."""
    path = tmp_path_factory.mktemp("named")
    for index, name in enumerate(NAMES):
        for row in range(2):
            save(path / name / f"{row}.png", 2 * index + row)
    return path


def pasted(line: str) -> list[str]:
    """The arguments of the command that a line of output ends with, as a shell takes them."""
    command = line.partition("reverie ")[2].partition(", or ")[0]
    done = subprocess.run(["bash", "-c", f"printf '%s\\0' {command}"], capture_output=True, check=True)
    return [os.fsdecode(word) for word in done.stdout.split(b"\0")[:-1]]


def test_controls_marks_and_undecodable_bytes_are_escaped_and_words_and_emoji_are_not():
    assert printable("a\x1b[31m\nb\r\x7f\x9b") == r"a\x1b[31m\x0ab\x0d\x7f\x9b"
    assert printable("caf\udce9 \ud800 \u202eabc\ufeff \U000e0041") == r"caf\xe9 \ud800 \u202eabc\ufeff \U000e0041"
    for text in ("Füße, 漢字, עברית", "👩\u200d🚀 ❤️", "می\u200cخواهم", "[red] :smile: $x$ \\ '"):
        assert printable(text) == text
    orders = ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI", "BN", "B", "S")
    hidden = [
        c
        for c in map(chr, range(sys.maxunicode + 1))
        if unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") or unicodedata.bidirectional(c) in orders
    ]
    assert [c for c in hidden if printable(c) == c] == ["\u200c", "\u200d"]


def test_what_a_streams_encoding_lacks_is_escaped_and_a_name_cannot_begin_a_line():
    stream = io.TextIOWrapper(io.BytesIO(), "latin-1", newline="\n")
    say(stream, "é 漢", "a\nb")
    assert stream.buffer.getvalue().decode("latin-1") == "é \\u6f22\na\\x0ab\n"


def test_an_error_has_a_line_for_each_argument():
    assert str(ReverieError("first", "second")) == "first\nsecond" and str(ReverieError("alone")) == "alone"


def test_a_quoted_path_is_printable_and_the_shell_reads_it_back():
    names = [*NAMES, "plain", "a b", "ü\x01f", "😀\x7f", "$x$ `id`"]
    assert all(is_printable(quoted(name)) and "\n" not in quoted(name) for name in names)
    assert pasted("Next: reverie " + " ".join(map(quoted, names))) == [
        f"./{name}" if name.startswith("-") else name for name in names
    ]


def test_folders_of_any_name_are_read_and_named_and_the_printed_command_trains_on_them(home, call, tmp_path):
    for index, name in enumerate(NAMES):
        for row in range(9):
            save(tmp_path / name / f"{row}.png", row)
        name = f"./{name}" if name.startswith("-") else name
        code, out, err = call("data", name)
        assert code == 0 and is_printable(out + err) and out.splitlines()[1].startswith(printable(name))
        verb, model, flag, source = pasted(out.splitlines()[-1])
        assert (verb, model, flag, source) == ("train", "vae", "--data", name)
        if index in (1, 7, 11):
            code, out, err = call(verb, model, flag, source, *SMALL)
            assert code == 0 and is_printable(out + err) and printable(name) in err
    code, out, err = call("data", tmp_path / "no\x1b[31msuch")
    assert code == 2 and out == "" and r"no\x1b[31msuch" in err and is_printable(err)


def test_classes_and_runs_of_any_name_print_as_text(folder, call, tmp_path):
    code, out, err = call("data", folder)
    assert code == 0 and is_printable(out + err) and "[red]" in out and ":smile:" in out
    report = json.loads(call("data", folder, "--json")[1])
    assert len(report["classes"]) == len(NAMES)
    for name in ("a\nb\x1b[31m", "caf\udce9"):
        code, out, err = call("train", "vae", "--data", folder, *SMALL, "--conditional", "label", "--out", name)
        assert code == 0 and is_printable(out + err), err
        assert f"Run directory: {printable(name)}" in err
        arguments = pasted(out.splitlines()[-1])
        assert arguments[:2] == ["sample", name]
        code, out, err = call(*arguments)
        assert code == 0 and is_printable(out + err)
        for more in (f"{name}.png", f"{name}.npz", f"folder {name}"):
            for _ in range(2):  # what reverie wrote is replaced, or continued
                code, out, err = call("sample", name, "-n", 2, "--label", "[red]", "--out", more)
                assert code == 0 and is_printable(out + err), err
        code, out, err = call("sample", name, "--label", "\x1bno")
        assert code == 2 and out == "" and is_printable(err) and "[red]" in err
        for verb in (("runs", "."), ("show", name), ("rerun", name, "--out", f"again {name}"), ("resume", name)):
            code, out, err = call(*verb)
            assert code == (2 if verb[0] == "resume" else 0) and is_printable(out + err), verb
        call("show", name, "--json")
    rows = json.loads(call("runs", ".", "--json")[1])
    assert {row["run"] for row in rows} >= {"a\nb\x1b[31m", "caf\udce9"}


def test_what_a_run_records_prints_as_text(folder, call, tmp_path):
    assert call("train", "vae", "--data", folder, *SMALL, "--conditional", "label", "--out", "run")[0] == 0
    (manifest,) = (tmp_path / "run" / "checkpoints").glob("*1/manifest.json")
    kept = manifest.read_text()
    manifest.write_text('{"step": 1, "sha256": {"\\u001b[31mx\\u202e": "0"}}')
    code, out, err = call("sample", "run/checkpoints/00000001")
    assert code == 1 and out == "" and is_printable(err)
    manifest.write_text(kept)
    info = json.loads((tmp_path / "run" / "run.json").read_text())
    info["data"] |= {"classes": ["\x1b[31m[red]"] * len(NAMES), "source": "/gone/\x1b[2J\u202e\ud800"}
    (tmp_path / "run" / "run.json").write_text(json.dumps(info))
    for verb, expected in ((["show"], 0), (["sample", "--label", "no"], 2), (["reconstruct"], 1), (["evaluate"], 1)):
        code, out, err = call(verb[0], "run", *verb[1:])
        assert code == expected and is_printable(out + err), (verb, err)


def test_captions_and_warnings_print_as_text(home, call, tmp_path, monkeypatch):
    for row in range(10):
        save(tmp_path / "d" / f"{row}.png", row)
    rows = "".join(f'{row}.png,"a {chr(27)}[31mred \u202e[/bold] cat"\n' for row in range(10))
    (tmp_path / "d" / "metadata.csv").write_text("file_name,text\n" + rows)
    small = ("--width", 16, "--depth", 1, "--batch-size", 4, "--steps", 1, "--conditional", "text", "--out", "run")
    code, out, err = call("train", "ddpm", "--data", "d", *small)
    assert code == 0 and is_printable(out + err)
    warnings.simplefilter("always")
    hostile = "\x1b]0;x\x07 \u202edog caf\udce9"
    with pytest.warns(UserWarning, match="No caption of the training data has"):
        assert call("sample", "run", "-n", 1, "--text", "a red cat", hostile, "--labels", "--steps", 1)[0] == 0
    monkeypatch.setattr(warnings, "showwarning", lambda *w: sys.stderr.write(warnings.formatwarning(*w[:4])))
    code, out, err = call("sample", "run", "-n", 1, "--text", hostile, "--steps", 1)
    assert code == 0 and is_printable(out + err) and "Warning: No caption of the training data has" in err


@pytest.mark.usefixtures("real_plots")
@pytest.mark.filterwarnings("error:Glyph")  # of a character that matplotlib cannot draw
def test_class_names_of_a_table_are_drawn_as_they_are_printed(home, call, tmp_path):
    for row in range(12):
        save(tmp_path / "d" / f"{row}.png", row)
    classes = ("a \x1b[31m", "$x_$ :b")
    rows = "".join(f"{row}.png,{classes[row % 2]}\n" for row in range(12))
    (tmp_path / "d" / "metadata.csv").write_text("file_name,label\n" + rows)
    code, out, err = call("train", "vae", "--data", "d", *SMALL, "--conditional", "label", "--out", "run")
    assert code == 0 and is_printable(out + err) and (tmp_path / "run" / "latent-map.png").exists(), err
    code, out, err = call("runs", ".", "--sheet", "runs.png")
    assert code == 0 and is_printable(out + err)


@pytest.mark.parametrize("terminal", [False, True])
def test_wrong_arguments_are_quoted_as_text(call, monkeypatch, terminal):
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal)
    for arguments in (["\x1b[31mverb"], ["data", "--\x1b]0;x"], ["rerun", "a", "--\x1b"], ["train", "\x1bx"]):
        code, out, err = call(*arguments)
        assert code == 2 and out == "" and r"\x1b" in err and is_printable(err), arguments
    code, out, err = call("data", "emoji", "--fit", "[red]:smile:")
    assert code == 2 and "[red]:smile:" in err and r"\x1b" not in err and is_printable(err)


class FullDisk(io.StringIO):
    def write(self, text: str) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize(
    "show", [lambda: shared.out("a"), lambda: shared.dump({"a": 1}), lambda: shared.table(["a"], [["b"]])]
)
def test_a_full_output_is_an_error_in_words(show: Callable[[], None]) -> None:
    with contextlib.redirect_stdout(FullDisk()), pytest.raises(ReverieError, match=r"cannot be written.*No space left"):
        show()


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["data", "--help"]])
def test_help_that_cannot_be_written_is_an_error_in_words(arguments: list[str], capsys) -> None:
    with contextlib.redirect_stdout(FullDisk()), pytest.raises(SystemExit) as ended:
        main(arguments)
    assert (
        ended.value.code == 1 and "cannot be written to the standard output: No space left" in capsys.readouterr().err
    )


def test_a_reader_that_goes_away_ends_help_quietly() -> None:
    command = f"{sys.executable} -m reverie --help | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")

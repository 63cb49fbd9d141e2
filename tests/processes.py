"""The command line in processes of their own: forks of this one, which has torch already (its import takes seconds)."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import traceback
import warnings
from pathlib import Path
from typing import Any, NoReturn

from reverie.cli import main
from reverie.core import registry


class Process:
    """``reverie ARGUMENTS``, as it starts from a shell: in a folder, with environment variables, with two outputs."""

    def __init__(self, *arguments: Any, cwd: Path | str | None = None, **environment: str):
        self.words = [str(argument) for argument in arguments]
        self.outputs = tempfile.TemporaryFile(), tempfile.TemporaryFile()  # noqa: SIM115 (``wait`` closes them)
        self.pid = os.fork()
        if not self.pid:
            self._run(Path(cwd or Path.cwd()), environment)

    def _run(self, cwd: Path, environment: dict[str, str]) -> NoReturn:
        code = 1
        try:
            for number, output in enumerate(self.outputs, 1):
                os.dup2(output.fileno(), number)
            with open(1, "w", closefd=False) as sys.stdout, open(2, "w", closefd=False) as sys.stderr:
                try:
                    os.chdir(cwd)
                    sys.path.insert(0, str(cwd))
                    os.environ.pop("REVERIE_IMPORT", None)
                    os.environ.update(environment)
                    registry._WAITING[:] = [True]  # REVERIE_IMPORT is read once in a process
                    warnings.resetwarnings()  # pytest makes some of them errors
                    main(self.words)
                except SystemExit as ended:
                    code = int(ended.code or 0)
                except BaseException:
                    traceback.print_exc()
        finally:
            os._exit(code)

    def wait(self) -> subprocess.CompletedProcess[str]:
        """Its exit code and outputs, at its end."""
        _, status = os.waitpid(self.pid, 0)
        texts = []
        for output in self.outputs:
            with output:
                output.seek(0)
                texts.append(output.read().decode())
        return subprocess.CompletedProcess(self.words, os.waitstatus_to_exitcode(status), *texts)

    def kill(self) -> None:
        """SIGKILL, and wait for its end."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        self.wait()


def reverie(*arguments: Any, cwd: Path | str | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    """``reverie ARGUMENTS`` to its end."""
    return Process(*arguments, cwd=cwd, **environment).wait()


def reverie_on_ranks(ranks: int, *arguments: Any) -> list[subprocess.CompletedProcess[str]]:
    """``torchrun --nproc_per_node RANKS -m reverie ARGUMENTS``: what each rank ends with."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    group = {"WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    started = [Process(*arguments, RANK=str(rank), LOCAL_RANK=str(rank), **group) for rank in range(ranks)]
    return [process.wait() for process in started]

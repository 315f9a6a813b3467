"""Functions of a child process, called over its pipes: one line of JSON there, one line back."""

from __future__ import annotations

import json
import select
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

#: Seconds one call may take before the child is given up.
_LIMIT_SECONDS = 300.0
#: Seconds a child may take to end after its last call before it is killed.
_STOP_SECONDS = 15.0


class Child:
    """A process that runs `serve`; a context manager."""

    def __init__(self, script: Path, environ: Mapping[str, str], folder: Path) -> None:
        self._log = (folder / f"{script.stem}.log").open("ab")
        self._process = subprocess.Popen(
            [sys.executable, str(script)],
            bufsize=0,
            env=dict(environ),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
        )

    def ask(self, do: str, **how: Any) -> Any:
        """Call a function and return what it returns."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"do": do, **how}).encode() + b"\n")
        if not select.select([self._process.stdout], [], [], _LIMIT_SECONDS)[0]:
            raise TimeoutError(f"{do} did not end in {_LIMIT_SECONDS:g} s; see {self._log.name}")
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError(f"{do} ended its process; see {self._log.name}:\n{Path(self._log.name).read_text()}")
        return json.loads(answer)

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *exc: object) -> None:
        pipes: tuple[IO[bytes] | None, ...] = (self._process.stdin, self._process.stdout, self._log)
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for pipe in pipes:
            assert pipe is not None
            pipe.close()


def serve(functions: Mapping[str, Callable[..., Any]]) -> None:
    """Carry out calls until there are no more."""
    for line in sys.stdin:
        how = json.loads(line)
        print(json.dumps(functions[how.pop("do")](**how)), flush=True)

"""Runs a check in a process of its own, because a bad action may end the interpreter that steps it."""

import faulthandler
import multiprocessing
import os
import signal
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from metafast.envs.checker._session import Session, Skip

__all__ = ["Ended", "isolated"]


@dataclass(frozen=True)
class Ended:
    """How a process ended that did not come back with a result."""

    words: str


def _child(
    connection: Any, log: str, function: Callable[..., Any], session: Session, arguments: tuple[Any, ...]
) -> None:
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    warnings.simplefilter("ignore")
    # A crash is told in the report, and not beside it.
    faulthandler.disable()
    try:
        result = function(session, *arguments)
    except Skip as skip:
        result = skip
    except BaseException as error:
        result = Ended(f"{type(error).__name__}: {error}")
    connection.send(result)
    connection.close()
    # The environment's own threads, started in this process or lost in its fork, may never end.
    os._exit(0)


def isolated(session: Session, function: Callable[..., Any], *arguments: Any) -> Any:
    """Return ``function(session, *arguments)`` as another process finds it, or `Ended` where that did not come back.

    Raises Skip where processes cannot be forked and no start method was given.
    """
    method = session.start_method
    if method is None:
        if "fork" not in multiprocessing.get_all_start_methods():
            raise Skip("it needs a process of its own: give a factory that can be pickled and start_method='spawn'")
        method = "fork"
    context: Any = multiprocessing.get_context(method)
    ours, theirs = context.Pipe(duplex=False)
    with tempfile.TemporaryDirectory() as folder:
        log = str(Path(folder) / "output")
        process = context.Process(target=_child, args=(theirs, log, function, session, arguments), daemon=True)
        with warnings.catch_warnings():
            # Python and JAX warn of any fork of a process with threads; a child that hangs is told as such below.
            warnings.simplefilter("ignore")
            process.start()
        theirs.close()
        try:
            result = ours.recv() if ours.poll(session.timeout) else Ended(f"no answer in {session.timeout:g} s")
        except EOFError:
            process.join(session.timeout)
            result = Ended(f"the process ended: {_how(process.exitcode)}{_output(log)}")
        finally:
            ours.close()
            if process.is_alive():
                process.kill()
            process.join()
    if isinstance(result, Skip):
        raise result
    return result


def _how(exitcode: int | None) -> str:
    if exitcode is not None and exitcode < 0:
        return signal.Signals(-exitcode).name
    return f"exit status {exitcode}"


def _output(log: str) -> str:
    path = Path(log)
    lines = path.read_text(errors="replace").strip().splitlines() if path.exists() else []
    # Beneath the message a backtrace may follow.
    return f" ({lines[0][:200]})" if lines else ""

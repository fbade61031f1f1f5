"""A Ray to work on: the one that is running in this process, one on this machine for a while, or a cluster."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import efface._errors as here
from efface._errors import GroupError, InputError
from efface._lazy import require
from efface._text import one_line, shown

SECONDS = 30.0
"""How long to wait for an answer."""

_QUIET = {"RAY_IGNORE_UNHANDLED_ERRORS": "1"}
"""What goes wrong in a task is raised here; Ray would print each merge that lacks its part, too."""

_CHECK = ("-m", "ray.scripts.scripts", "health-check", "--address")


def ray_module() -> Any:
    """Ray, or an error that says how to install it."""
    return require("ray", extra="ray")


@contextmanager
def running(address: str | None, workers: int | None = None, seconds: float = SECONDS) -> Iterator[Any]:
    """Ray, while it runs.

    One that this process runs already is taken, and left running. Otherwise it is started (None: on this machine, with
    a processor for each core) or connected to, and shut down at the end, whatever happens.

    Args:
        address: `"host:port"` of a cluster, `"auto"` for the one on this machine, or None.
        workers: With None: how many processors it has.
        seconds: How long a cluster may take to answer.

    Raises:
        MissingExtraError: If ray is not installed.
        InputError: If there is no cluster at the address, or Ray runs here already and an address is given.
        GroupError: If one is there and does not let this process in.
    """
    ray = ray_module()
    if ray.is_initialized():
        if address is not None:
            raise InputError(
                f"Ray runs in this process already: leave out address={address!r}, or ray.shutdown() first"
            )
        with _environment(**_QUIET):
            yield ray
        return
    if address is None:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        _start_here(ray, workers or cores or 1)
    else:
        _check_answers(address, seconds)
        _start(ray, address=address, log_to_driver=False, logging_level="error")
    try:
        with _environment(**_QUIET):
            yield ray
    finally:
        ray.shutdown()


def _start_here(ray: Any, cores: int, **more: Any) -> None:
    """Start one on this machine."""
    how = {"num_cpus": cores, "log_to_driver": False, "logging_level": "error", "include_dashboard": False, **more}
    with _environment(**_inherited()):
        try:
            _start(ray, address="local", **how)
        except GroupError:  # Ray gives itself 30 s, and may need longer on a machine that is busy
            _start(ray, address="local", **how)


def _start(ray: Any, **how: Any) -> None:
    try:
        ray.init(**how)
    except (Exception, SystemExit) as error:  # of any class, and SystemExit where nothing answers
        ray.shutdown()
        raise GroupError(f"Ray at {how['address']} does not start or let this process in: {one_line(error)}") from error


def _inherited() -> dict[str, str]:
    """What processes that are started here inherit: where this efface lies, and that nobody is told of it."""
    own = str(Path(here.__file__).resolve().parents[1])
    path = os.environ.get("PYTHONPATH", "")
    return {
        "PYTHONPATH": path if own in path.split(os.pathsep) else os.pathsep.join(filter(None, [own, path])),
        "RAY_enable_worker_prestart": "0",
        "RAY_prestart_worker_first_driver": "0",
        "RAY_USAGE_STATS_ENABLED": os.environ.get("RAY_USAGE_STATS_ENABLED", "0"),
        "RAY_worker_niceness": "0",  # as this process; Ray's own is 15
    }


@contextmanager
def _environment(**wanted: str) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _check_answers(address: str, seconds: float) -> None:
    """Refuse an address where no Ray answers within the time; Ray itself would wait for two minutes, and exit."""
    if not isinstance(address, str):
        raise InputError(f"address is {shown(address)}: write host:port, or auto")
    if address == "auto":
        return
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise InputError(f"address is {address!r}: write host:port of a cluster, as ray start --head says it, or auto")
    nobody = f"no Ray answers at {address} within {seconds:g} s: start one there with  ray start --head"
    try:
        socket.create_connection((host, int(port)), timeout=seconds).close()
    except OSError as error:
        raise InputError(f"{nobody} ({error})") from error
    if address.startswith("ray://"):
        return
    try:
        subprocess.run([sys.executable, *_CHECK, address], check=True, capture_output=True, timeout=seconds)
    except (subprocess.SubprocessError, OSError) as error:
        raise InputError(f"{nobody} (something else does)") from error

"""Jobs in processes of their own, each a copy of this one as it stands: what they work on need not be sent to them.

Processes are forked, as torch's own DataLoader does it on Linux, and like its workers have one thread of torch each:
the threads of this process are not in the copy. Nothing that lives on an accelerator survives the copy.
"""

from __future__ import annotations

import json
import multiprocessing
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkProcess
from pathlib import Path
from typing import NamedTuple

import torch

from efface._errors import EffaceError, InputError
from efface._temporary import temporary_folder

_FORK = "fork"


class LostError(EffaceError, RuntimeError):
    """A process was killed before its job was done."""


class Job(NamedTuple):
    """What a process does.

    Attributes:
        name: For errors.
        begins: Called in this process before it begins.
        work: Called with a path where nothing is yet; it leaves there what is to be kept.
        done: Called in this process with that path; the jobs that it gives may begin now.
    """

    name: str
    begins: Callable[[], None]
    work: Callable[[Path], None]
    done: Callable[[Path], Iterable[Job]]


class _Running(NamedTuple):
    job: Job
    process: ForkProcess
    answer: Connection
    folder: Path


def check_processes(processes: int, devices: Iterable[torch.device]) -> None:
    """Refuse more than one process where copies of this one could not work.

    Raises:
        InputError: If there cannot be so many; the text says what to do.
    """
    if processes < 1:
        raise InputError(f"processes={processes}: write at least 1")
    if processes == 1:
        return
    instead = "leave processes out; other probes (only=) can have a folder and a process that you start yourself"
    if _FORK not in multiprocessing.get_all_start_methods() or sys.platform == "darwin":
        raise InputError(f"processes={processes}: this system does not copy processes safely, as Linux does: {instead}")
    if multiprocessing.current_process().daemon:
        raise InputError(f"processes={processes}: this process is a worker, which may start no others: {instead}")
    if elsewhere := [device for device in devices if device.type != "cpu"]:
        raise InputError(
            f"processes={processes}: a model is on {elsewhere[0]}, which a copied process cannot use: {instead}; or "
            "move all models to the CPU"
        )


def run_apart(jobs: Iterable[Job], processes: int, locks: Sequence[threading.RLock] = ()) -> None:
    """Do jobs, and those that follow from them, so many at a time.

    Where one fails no other is begun, those under way end and are kept, and its error is raised here.

    Args:
        jobs: In the order in which they begin.
        processes: How many at a time.
        locks: Held while a process is copied, so that no other thread holds one in the copy for ever.

    Raises:
        LostError: If a process was killed.
    """
    waiting, failed = list(jobs), list[BaseException]()
    running: list[_Running] = []
    with temporary_folder(name="apart") as work, _ended(running):
        started = 0
        while running or (waiting and not failed):
            while waiting and not failed and len(running) < processes:
                running.append(_started(waiting.pop(0), work / f"{started}", locks))
                started += 1
            for each in _over(running):
                running.remove(each)
                if (error := _answered(each)) is None:
                    waiting += each.job.done(each.folder)
                else:
                    failed.append(error)
    if failed:
        raise failed[0]


def _started(job: Job, folder: Path, locks: Sequence[threading.RLock]) -> _Running:
    job.begins()
    ours, theirs = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context(_FORK).Process(target=_work, args=(job, folder, theirs), daemon=True)
    with ExitStack() as held, warnings.catch_warnings():
        for lock in locks:
            held.enter_context(lock)
        # Python warns that threads are not in the copy: those of torch are not used there.
        warnings.filterwarnings("ignore", ".*multi-threaded, use of fork", DeprecationWarning)
        process.start()
    theirs.close()
    return _Running(job, process, ours, folder)


def _work(job: Job, folder: Path, answer: Connection) -> None:
    """In the process: do the job, and say how it ended."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal interrupts all; the first process ends the others
    torch.set_num_threads(1)
    try:
        job.work(folder)
    except BaseException as error:
        answer.send_bytes(_said(error))
    else:
        answer.send_bytes(b"")


def _said(error: BaseException) -> bytes:
    """An error as text: nothing that comes from another process is run here."""
    told = {"type": type(error).__name__, "text": str(error), "ours": isinstance(error, EffaceError)}
    return json.dumps({**told, "where": "".join(traceback.format_exception(error))}).encode()


def _error(said: bytes) -> BaseException:
    """The error again; of those that are not efface's own the type by name, and where it was raised."""
    told = json.loads(said)
    kinds = {kind.__name__: kind for kind in _subclasses(EffaceError)}
    if told["ours"] and told["type"] in kinds:
        return kinds[told["type"]](told["text"])
    error = RuntimeError(f"{told['type']}: {told['text']}")
    error.add_note(told["where"])
    return error


def _subclasses(kind: type[EffaceError]) -> Iterator[type[EffaceError]]:
    yield kind
    for each in kind.__subclasses__():
        yield from _subclasses(each)


def _over(running: Sequence[_Running]) -> list[_Running]:
    """Those that have ended, once there are any."""
    ready = wait([each.answer for each in running])
    return [each for each in running if each.answer in ready]


def _answered(each: _Running) -> BaseException | None:
    """How a process ended: None if well."""
    try:
        said = each.answer.recv_bytes()
    except EOFError:
        said = None
    each.answer.close()
    each.process.join()
    if said is None:
        code = each.process.exitcode or 0
        how = f"was killed (signal {-code})" if code < 0 else f"ended ({code})"
        return LostError(
            f"the process of {each.job.name!r} {how} before it was done; often there was too little memory: what was "
            "measured until then is kept if a folder was given, so run it again with that, and with fewer processes"
        )
    return _error(said) if said else None


@contextmanager
def _ended(running: Sequence[_Running]) -> Iterator[None]:
    """Nothing goes on once the block is left."""
    try:
        yield
    finally:
        for each in running:
            each.process.kill()
            each.process.join()
            each.answer.close()

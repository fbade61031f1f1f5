"""Which pipeline is calling: by the stack of the present thread alone."""

import functools
import threading

import torch

from efface.pipelines.calling import calling


class Pipe:
    """Has a call of its own, decorated as diffusers' are."""

    @torch.no_grad()
    def __call__(self, run):
        return run()


class Derived(Pipe):
    def __call__(self, run):
        return super().__call__(run)


class Oddly(Pipe):
    def __call__(this, run):  # type: ignore[reportSelfClsParameterName]
        return run()


def asked(pipe):
    return functools.partial(calling, pipe)


def test_it_is_true_within_the_call_at_any_depth_and_false_outside():
    for pipe in (Pipe(), Derived(), Oddly()):
        assert pipe(asked(pipe)) and pipe(lambda: [calling(pipe)][0])  # noqa: B023
        assert not calling(pipe)


def test_another_pipe_of_the_same_class_does_not_count_but_an_outer_call_does():
    a, b = Pipe(), Pipe()
    assert not b(asked(a))
    assert a(lambda: b(asked(a)))


def test_another_thread_does_not_count():
    pipe, found = Pipe(), []

    def elsewhere():
        thread = threading.Thread(target=lambda: found.append(calling(pipe)))
        thread.start()
        thread.join()

    pipe(elsewhere)
    assert found == [False]


def test_a_failed_call_leaves_nothing():
    pipe = Pipe()
    try:
        pipe(lambda: 1 / 0)
    except ZeroDivisionError:
        assert not calling(pipe)

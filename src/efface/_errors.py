"""Errors and warnings of efface; each also derives from the built-in that callers expect to catch."""


class EffaceError(Exception):
    """Base of every error that efface raises on purpose."""


class InputError(EffaceError, ValueError):
    """The caller's data or argument cannot be used; the text says what to write instead."""


class NotFittedError(EffaceError, RuntimeError):
    """Statistics were asked for before enough data was seen."""


class FormatError(EffaceError, ValueError):
    """A file is truncated, foreign, or written by a newer efface."""


class GroupError(EffaceError, RuntimeError):
    """Another process of a group has died or does not answer; what this one has gathered is as it was."""


class MissingExtraError(EffaceError, ImportError):
    """An optional dependency is not installed; the text names the extra to install."""


class EffaceWarning(UserWarning):
    """Base of every warning that efface emits."""


class NothingErasedWarning(EffaceWarning):
    """The fitted eraser is the identity: no linear trace of the concept was found."""


class NotReadWarning(EffaceWarning):
    """A concept says something that the method does not read: the fit is what it would be without it."""


class StillUnsafeWarning(EffaceWarning):
    """A prompt was not found safe within the steps allowed, and goes on as it is."""


class NotReachedWarning(EffaceWarning):
    """An erasure was on a model that ran and never came by one of its sites: nothing was erased there."""


class UnknownOptionWarning(EffaceWarning):
    """A file has an option that this version does not know; it is kept, and has no effect."""

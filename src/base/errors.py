"""Errors that a person can act on: `python -m src` prints one line for each and exits with its code."""

import difflib
from collections.abc import Iterable


class SpeakerIDError(Exception):
    """Base of every expected failure; the message names the file or setting, the cause and the remedy."""

    exit_code = 1


class SettingError(SpeakerIDError):
    """A setting, name or argument that does not exist or does not fit."""

    exit_code = 2


class InputError(SpeakerIDError):
    """Input data that is missing, corrupt, inconsistent or unsafe to load."""

    exit_code = 3


class RunError(SpeakerIDError):
    """A run that could not finish (a NaN loss, a full disk, a missing stage, a locked folder)."""

    exit_code = 4


class DivergedError(RunError):
    """A run whose loss is not finite: its settings are at fault, not the machine."""


def nearest(name: str, valid: Iterable[str]) -> str:
    """Return a hint such as "; did you mean 'lr'? valid: lr, betas" for an unknown `name`."""
    valid = sorted(valid)
    close = difflib.get_close_matches(name, valid, n=1, cutoff=0.5)
    hint = f"; did you mean '{close[0]}'?" if close else ";"
    shown = ", ".join(valid[:30]) + (", …" if len(valid) > 30 else "")
    return f"{hint} valid: {shown or 'none'}"

"""Implementations that nobody here wrote, wrapped so that tests can ask their opinion.

A judge that is not installed is an error that names the package to install, never a skipped test: a run
without its judges proves less than it seems to.
"""


class JudgeMissing(RuntimeError):
    """A judge cannot be started; the message names what to install."""


class Refused(Exception):
    """A judge looked at the object and found it bad."""


class Misuse(RuntimeError):
    """A judge was asked a question it does not know; a mistake in the test."""

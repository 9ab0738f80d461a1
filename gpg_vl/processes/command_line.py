"""The parser of the commands that end in one line where their options are wrong."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import NoReturn


class OneLineParser(ArgumentParser):
    """Reports a mistake as a one-line ``ValueError``, which ``run_command`` prints."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message}; see --help")


class ScriptParser(ArgumentParser):
    """The same for a script: a mistake is one line on standard error, and the exit code 2."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}; see --help\n")

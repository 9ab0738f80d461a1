"""A terminal and a tracker that keep what they get, and fail where they are told to."""

from __future__ import annotations

import errno
import io
import os
import random
import sys
from collections.abc import Mapping
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, ClassVar

import numpy
import pytest
import torch
from accelerate import tracking


class Terminal(io.StringIO):
    """Takes what is painted; hangs up on demand."""

    encoding = "utf-8"
    is_gone = False

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        if self.is_gone:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return super().write(text)


class Recorder(tracking.GeneralTracker):
    """Takes what a tracker gets, draws random numbers, and fails where it is told to."""

    name = "wandb"
    requires_logging_directory = False
    failing = ""
    error: type[BaseException] = RuntimeError
    calls: ClassVar[list[tuple[Any, ...]]] = []

    def __init__(self, *words: Any, **keys: Any):
        self._called("opening", *words, keys)

    def _called(self, name: str, *values: Any) -> None:
        random.random(), numpy.random.random(), torch.rand(1)
        if name == self.failing:
            raise self.error("tracker\nis down")
        self.calls.append((name, *values))

    def start(self) -> None:
        self._called("start")

    def store_init_configuration(self, values: Mapping[str, Any]) -> None:
        self._called("config", values)

    def log(self, values: Mapping[str, Any], step: int | None = None, **_: Any) -> None:
        self._called("log", step, values)

    def log_images(self, values: Mapping[str, Any], step: int | None = None, **_: Any) -> None:
        self._called("log_images", step, values)

    def finish(self) -> None:
        self._called("finish")


def install_recorder(monkeypatch: pytest.MonkeyPatch) -> type[Recorder]:
    """In the place of wandb, which so is installed."""
    package = ModuleType("wandb")
    package.__spec__ = ModuleSpec("wandb", None, origin="here")
    monkeypatch.setitem(sys.modules, "wandb", package)
    monkeypatch.setitem(tracking.LOGGER_TYPE_TO_CLASS, "wandb", Recorder)
    Recorder.calls, Recorder.failing, Recorder.error = [], "", RuntimeError
    return Recorder

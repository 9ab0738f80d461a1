"""Renders a chat template once in a process of its own, with limits: it is a program of whoever made the folder.

In this process only its Python code can be interrupted (``deadline.py``). A single long operation cannot, such as
``9 ** 9 ** 9``, nor one that fills the memory.
"""

from __future__ import annotations

import os
import resource
import signal
import time
import warnings
from typing import Any, NoReturn

from gpg_vl.errors import ModelMistake, is_out_of_memory

MAX_SECONDS = 5  # of a processor
MAX_BYTES = 2**30  # beside what this process has
_PATIENCE_SECONDS = 60.0
_MESSAGES = (
    {"role": "system", "content": [{"type": "text", "text": "Answer in a word."}]},
    {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "How many shapes?"}]},
)
_DONE, _NO_MEMORY = 0, 3


def try_template(processor: Any, path: str) -> None:
    """
    Raises:
        ModelMistake: a prompt takes too long, or too much memory; what else fails is said where a prompt is rendered
    """
    if processor.chat_template is None:
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of Python 3.12: the child takes no lock of another thread
        child = os.fork()
    if child == 0:
        _render_and_end(processor)
    status = _wait(child)
    lack = None
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGXCPU:
        lack = f"takes over {MAX_SECONDS} s for one prompt"
    elif os.WIFEXITED(status) and os.WEXITSTATUS(status) == _NO_MEMORY:
        lack = f"takes over {MAX_BYTES >> 30} GiB of memory for one prompt"
    if lack is not None:
        raise ModelMistake(f"model.path: the chat template of {path} {lack}; correct it")


def _render_and_end(processor: Any) -> NoReturn:
    code = _DONE
    try:
        signal.signal(signal.SIGXCPU, signal.SIG_DFL)
        _limit(resource.RLIMIT_CPU, MAX_SECONDS)
        _limit(resource.RLIMIT_AS, _memory_now() + MAX_BYTES)
        for messages in (_MESSAGES, _MESSAGES[1:]):
            processor.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True)
    except BaseException as error:  # noqa: BLE001  this process must not go on
        code = _NO_MEMORY if is_out_of_memory(error) else _DONE
    finally:
        os._exit(code)


def _limit(kind: int, value: int) -> None:
    """A limit that the caller already has stays."""
    hard = resource.getrlimit(kind)[1]
    resource.setrlimit(kind, (value if hard == resource.RLIM_INFINITY else min(value, hard), hard))


def _memory_now() -> int:
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[0]) * resource.getpagesize()


def _wait(child: int) -> int:
    """The status of the child; one that does not get a processor is ended, and counts as done."""
    end = time.monotonic() + _PATIENCE_SECONDS
    while time.monotonic() < end:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            return status
        time.sleep(0.002)
    os.kill(child, signal.SIGKILL)
    return os.waitpid(child, 0)[1]

"""What libraries say stays off the screen, unless --debug asks for it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "TQDM_DISABLE"}
"""A command that ran in this process has set it."""

NOISE = """
import sys
from gpg_vl.processes.exit_codes import run_command

def work():
    import logging, warnings
    from tqdm import tqdm
    logger = logging.getLogger("DeepSpeed")
    logger.addHandler(logging.StreamHandler())
    logger.warning("Setting accelerator to CPU")
    logger.error("it is broken")
    for kind in (DeprecationWarning, FutureWarning):
        warnings.warn("old", kind)
    warnings.warn("a real one", UserWarning)
    for _ in tqdm(range(3), desc="Loading weights"): pass

run_command("noise", work, debug="--debug" in sys.argv)
"""


@pytest.mark.parametrize("debug", [False, True])
def test_noise_is_for_debugging(debug: bool) -> None:
    command = [sys.executable, "-W", "default", "-c", NOISE, *(["--debug"] if debug else [])]
    said = subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, check=True).stderr
    for text in ("Setting accelerator to CPU", "DeprecationWarning", "FutureWarning", "Loading weights"):
        assert (text in said) == debug, text
    assert "it is broken" in said and "a real one" in said

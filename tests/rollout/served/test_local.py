"""vLLM itself in the process of the policy, on a CPU: ``make test-vllm``. No mock, but that it cannot sleep there.

The environment of ``make setup-vllm`` has what vllm needs. What the kit needs beside that, this process lends it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sysconfig
from pathlib import Path

import pytest

from gpg_vl.rollout.served.parity import MAX_GAP
from tests.support.vllm_servers import PYTHON, ROOT, START_SECONDS

LENT = """
import runpy, sys
sys.path.append(sys.argv.pop(1))
runpy.run_module("tests.support.colocated_vllm", run_name="__main__", alter_sys=True)
"""


@pytest.mark.vllm
def test_it_takes_the_weights_of_the_policy_from_memory(vllm_model: Path) -> None:
    """Before and after all of them changed, and those of a LoRA adapter added in; without either reset it does not."""
    command = [str(PYTHON), "-c", LENT, sysconfig.get_path("purelib"), str(vllm_model)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "VLLM_CPU_KVCACHE_SPACE": "1"}
    ran = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=2 * START_SECONDS, env=environment
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    seen = json.loads(ran.stdout.splitlines()[-1])
    print(seen)
    without = [seen.pop(step) for step in ("_forget_prefixes", "_forget_images")]
    assert all(gap == "it died" or gap > 10 * MAX_GAP["float32"] for gap in without)
    assert seen.pop("files") == []
    gaps = [seen.pop(name) for name in [*seen] if name.startswith("gap")]
    assert len(gaps) == 4 and max(gaps) < MAX_GAP["float32"]
    assert len(seen) == 5 and all(seen.values()), seen

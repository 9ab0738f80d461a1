from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SCRIPT = """
import sys, time
from accelerate import Accelerator
from gpg_vl.processes.ranks import RankError, run_together
from gpg_vl.config import RewardsConfig
from gpg_vl.rewards.scorer import Scorer
from support.hostile_groups import hostile

rank = Accelerator(cpu=True).process_index
with Scorer(RewardsConfig(on_error="abort", timeout_s=1.0)) as scorer:
    assert run_together(lambda: scorer.score([hostile("right")]))[0].rewards[0].total == 1.2
    start = time.monotonic()
    try:
        run_together(lambda: scorer.score([hostile("sleep" if rank == 1 else "right", sample_id=f"row-{rank}")]))
    except RankError as error:
        assert time.monotonic() - start < 10
        sys.stdout.write(f"rank {rank} stopped: {error}\\n")  # at once: the launcher turns buffers off
"""


def test_abort_stops_every_rank_with_the_sample(tmp_path: Path) -> None:
    """Two real processes; the verifier of the second one hangs."""
    (tmp_path / "ranks.py").write_text(f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n{SCRIPT}")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    ran = subprocess.run(
        [*command, str(tmp_path / "ranks.py")], capture_output=True, text=True, check=False, timeout=240
    )
    stopped = sorted(line for line in ran.stdout.splitlines() if "stopped" in line)
    assert [line[:6] for line in stopped] == ["rank 0", "rank 1"], ran.stderr
    assert all("sample row-1: timeout: no answer within 1 s" in line for line in stopped)

"""Fits by scripts that torchrun and accelerate start: real processes, as users start them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import efface
from tests.integration.test_scrub_together import IDS, LABELS, OPTIONS, same
from tests.models import tiny

ROOT = Path(__file__).parents[2]
SCRIPT = """
import sys, torch, torch.distributed as dist
import efface
from tests.integration.test_scrub_together import IDS, LABELS, OPTIONS
from tests.models import tiny

torch.set_num_threads(1)
model = tiny("llama")
if sys.argv[1] == "accelerate":
    from accelerate import Accelerator
    model = Accelerator(cpu=True).prepare(model)
    assert type(model).__name__ == "DistributedDataParallel"
else:
    dist.init_process_group("gloo")
rank, size = dist.get_rank(), dist.get_world_size()
mine = slice(4 * rank, 4 * rank + 4)
scrubber = efface.scrub(model, {"input_ids": IDS[mine]}, LABELS[mine], **OPTIONS, group=dist.group.WORLD)
scrubber.save(f"{sys.argv[2]}/{rank}")
dist.barrier()
dist.destroy_process_group()
"""
LAUNCHERS = {
    "torchrun": ["torch.distributed.run", "--standalone", "--nproc-per-node", "2"],
    "accelerate": [
        *("accelerate.commands.launch", "--multi_gpu", "--num_machines", "1", "--num_processes", "2"),
        *("--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"),
    ],
}


@pytest.mark.slow
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_a_script_that_is_launched_fits_what_one_process_fits(launcher: str, tmp_path: Path) -> None:
    if launcher == "accelerate":
        pytest.importorskip("accelerate")
    script = tmp_path / "fit.py"
    script.write_text(SCRIPT)
    paths = [ROOT / "src", ROOT / "packages/efface-worlds/src", ROOT]
    place = {"PYTHONPATH": os.pathsep.join(map(str, paths)), "OMP_NUM_THREADS": "1"}
    argv = [sys.executable, "-m", *LAUNCHERS[launcher], str(script), launcher, str(tmp_path)]
    done = subprocess.run(argv, env=os.environ | place, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    first, second = (efface.load(tmp_path / str(rank)) for rank in range(2))
    one = efface.scrub(tiny("llama"), {"input_ids": IDS[:8]}, LABELS[:8], **OPTIONS)
    assert first == second and same(one, first, atol=1e-5)

import json
import os
import subprocess
import sys

import numpy as np

from metafast.trainers import _run


def test_two_processes_keep_the_same_parameters(tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["-m", "metafast", "train", "--num-envs", "4", "--num-steps", "16", "--total-steps", "1024", "--json"]
    completed = subprocess.run(
        [*command, "--run-dir", str(tmp_path / "run")],
        capture_output=True, text=True, timeout=200, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert completed.returncode == 0, completed.stderr
    (line,) = completed.stdout.strip().splitlines()
    assert json.loads(line)["env_steps"] == 1024
    first, second = (_run.RunDirectory(tmp_path / "run", rank).read_state()[0] for rank in (0, 1))
    for name in ("learner.parameters", "learner.adam.first", "learner.adam.second", "learner.adam.count"):
        np.testing.assert_array_equal(first[name], second[name])
    # Experience differs: the seeds are offset by the rank.
    assert not np.array_equal(first["observations"], second["observations"])
    assert (first["learner.adam.count"] > 0).all()

"""What each face needs installed, and what it says where that is missing."""

import subprocess
import sys

import pytest

import metafast.compat

WITHOUT = """
import sys
class Without:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {missing}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Without())
"""
LIBRARIES = {"stable_baselines3", "torch", "jax", "torchrl", "rlax", "tianshou"}


def run(missing, code):
    program = WITHOUT.format(missing=missing) + code
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("name", ["cleanrl", "tianshou"])
def test_faces_that_need_nothing(name):
    result = run(LIBRARIES, f"import metafast.compat.{name}")
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize(
    ("name", "needed"), [("torchrl", "torch"), ("rlax", "jax"), ("sb3", "stable_baselines3")], ids=str
)
def test_faces_that_need_their_types(name, needed):
    others = LIBRARIES - {needed, "torch" if name == "sb3" else ""}
    assert run(others, f"import metafast.compat.{name}").returncode == 0
    refused = run({needed}, f"import metafast.compat.{name}")
    assert f"ImportError: metafast.compat.{name} could not import" in refused.stderr
    assert f"`pip install {needed.replace('_', '-')}`" in refused.stderr


def test_faces_are_imported_when_they_are_asked_for():
    code = "import metafast.compat; assert not {0} & set(sys.modules); metafast.compat.cleanrl.compute_gae"
    assert run(set(), code.format(LIBRARIES)).returncode == 0
    with pytest.raises(AttributeError, match="no attribute 'acme'"):
        _ = metafast.compat.acme

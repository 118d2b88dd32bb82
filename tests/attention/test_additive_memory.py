"""That nothing of batch x queries x keys x width elements is ever allocated, and how much is."""

import subprocess
import sys

import pytest

# One such array of float32 would be 512 MiB; the address space may grow by less than half of that.
PROGRAM = """
import re, resource, sys
import torch
from metafast.attention import additive_attention
import metafast

metafast.set_num_threads(2)
batch, queries, keys, width = 4, 512, 512, 128

def inputs(queries, keys):
    return [torch.randn(*shape, requires_grad=True)
            for shape in ((batch, queries, width), (batch, keys, width), (batch, keys, width), (width,))]

def differentiate(tensors):
    context = additive_attention(*tensors)
    gradients = torch.autograd.grad(context.square().sum(), tensors, create_graph=sys.argv[1] == "double")
    if sys.argv[1] == "double":
        torch.autograd.grad(sum(gradient.square().sum() for gradient in gradients), tensors)

differentiate(inputs(3, 4))  # what torch sets up at its first calls
tensors = inputs(queries, keys)

def kibibytes(name):
    return int(re.search(rf"{name}:\\s+(\\d+) kB", open("/proc/self/status").read()).group(1))

resource.setrlimit(resource.RLIMIT_AS, ((kibibytes("VmSize") << 10) + (240 << 20),) * 2)
before = kibibytes("VmHWM")
differentiate(tensors)
print((kibibytes("VmHWM") - before) / 1024)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc/self/status")
@pytest.mark.parametrize(("what", "most_mib"), [("first", 24), ("double", 64)])
def test_peak_memory(what, most_mib):
    result = subprocess.run([sys.executable, "-c", PROGRAM, what], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    # Results, gradients and saved weights included.
    assert 1 < float(result.stdout) < most_mib
    print(f"{what}: {float(result.stdout):.1f} MiB")

"""Builds the CUDA kernels for the CPU: their own source, with cuda_on_host/ in the place of CUDA's headers.

METAFAST_KERNELS_ON_HOST_FLAGS are further flags of the compiler, such as a sanitizer's.
"""

import hashlib
import importlib.util
import os
import subprocess
import sysconfig
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pybind11

HEADERS = Path(__file__).with_name("cuda_on_host")
SOURCES = Path(__file__).parents[2] / "csrc"
FLAGS = ("-std=c++17", "-O1", "-fPIC", "-fvisibility=hidden", "-fno-trapping-math", "-fno-math-errno", "-Wno-psabi",
         "-Wno-unknown-pragmas", "-Wno-ignored-attributes",
         *os.environ.get("METAFAST_KERNELS_ON_HOST_FLAGS", "").split())  # fmt: skip


def build():
    """Compile what is new and import the module; what was built before is kept in the temporary directory."""
    compiler = os.environ.get("CXX", "c++")
    include = [HEADERS, SOURCES, pybind11.get_include(), sysconfig.get_path("include")]
    sources = sorted([*SOURCES.glob("*/*.cu"), *SOURCES.glob("bindings/cuda_*.cpp")])
    headers = [*HEADERS.rglob("*.h"), *HEADERS.rglob("*.cuh"), *SOURCES.rglob("*.hpp"), *SOURCES.rglob("*.cuh")]
    common = hashlib.sha256(repr((compiler, FLAGS, include)).encode())
    for header in sorted(headers):
        common.update(header.read_bytes())
    directory = Path(tempfile.gettempdir()) / f"metafast-kernels-on-host-{os.getuid()}"
    directory.mkdir(mode=0o700, exist_ok=True)

    def compile_one(source):
        digest = common.copy()
        digest.update(str(source).encode() + source.read_bytes())
        target = directory / f"{source.stem}-{digest.hexdigest()[:24]}.o"
        if not target.exists():
            partial = target.with_suffix(f".{os.getpid()}.o")
            command = [compiler, *FLAGS, *(f"-I{path}" for path in include), "-x", "c++", "-c", source, "-o", partial]
            _run(command)
            partial.rename(target)
        return target

    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        objects = list(pool.map(compile_one, sources))
    name = hashlib.sha256(repr(objects).encode()).hexdigest()[:24]
    module = directory / f"_cuda-{name}.so"
    if not module.exists():
        partial = module.with_suffix(f".{os.getpid()}.so")
        _run([compiler, *FLAGS, "-shared", *objects, "-o", partial])
        partial.rename(module)
    spec = importlib.util.spec_from_file_location("kernels_on_host._cuda", module)
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


def _run(command):
    finished = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    assert finished.returncode == 0, f"{' '.join(map(str, command))}\n{finished.stderr}"

"""The device of `fake_gpu.py`: a library that is built and loaded when this is imported.

Torch must not be loaded yet: it looks for a device's hooks once.
"""

import ctypes
import hashlib
import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

SOURCE = Path(__file__).with_suffix(".cpp")
OPTIONS = ("-O0", "-shared", "-fPIC", "-std=c++20")


def build() -> Path:
    """The library, built once for each torch, by version and place, and for each source.

    Raises:
        SystemExit: there is no g++, or it does not build against this torch.
    """
    version, spec = importlib.metadata.version("torch"), importlib.util.find_spec("torch")
    assert spec is not None
    assert spec.origin is not None
    there = Path(spec.origin).parent  # it loads the libraries of this place
    key = hashlib.sha256(SOURCE.read_bytes() + f"{version} {there}".encode()).hexdigest()[:16]
    built = Path(tempfile.gettempdir()) / f"fake_device-{os.getuid()}-{key}.so"
    if built.exists() and built.stat().st_uid == os.getuid():
        return built
    if shutil.which("g++") is None:
        sys.exit("g++ is needed to build the fake device, and is not there")
    draft = built.with_suffix(f".{os.getpid()}")
    includes = [f"-I{there}/include", f"-I{there}/include/torch/csrc/api/include"]
    libraries = [f"-L{there}/lib", f"-Wl,-rpath,{there}/lib", "-lc10", "-ltorch_cpu"]
    done = subprocess.run(
        ["g++", *OPTIONS, SOURCE, "-o", draft, *includes, *libraries],
        check=False,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        sys.exit(f"the fake device does not build against torch {version}:\n{done.stderr[-2000:]}")
    draft.replace(built)
    return built


LOADED = ctypes.CDLL(str(build()), ctypes.RTLD_GLOBAL)

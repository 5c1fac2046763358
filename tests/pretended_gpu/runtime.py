"""Compiles the stand-in of libcudart and libcuda (runtime.c) and starts processes with it in front of the real ones."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.pretended_gpu.settings import PREFIX, ROOT

SOURCE = Path(__file__).with_name("runtime.c")
SITE = Path(__file__).with_name("site")  # its sitecustomize.py installs the kernels in every process
LIBRARY = PREFIX + "LIBRARY"


def cuda_headers() -> Path | None:
    """The folder of cuda_runtime_api.h: triton's wheel, which torch's CUDA wheels require, brings all headers."""
    spec = importlib.util.find_spec("triton")
    if spec is None or spec.origin is None:
        return None
    folder = Path(spec.origin).parent / "backends" / "nvidia" / "include"
    return folder if (folder / "cuda_runtime_api.h").is_file() else None


def compiler() -> str | None:
    """The C compiler."""
    return shutil.which("cc") or shutil.which("gcc")


def compiled_library() -> Path:
    """The compiled runtime, in a cache in the temporary folder. Its name has the hash of its source.

    Several processes may compile at once: each writes its own file and renames it.
    """
    content = hashlib.sha256(SOURCE.read_bytes()).hexdigest()[:16]
    folder = Path(tempfile.gettempdir()) / f"pretended_gpu_{os.getuid()}"
    path = folder / f"{content}.so"
    if path.is_file():
        return path
    folder.mkdir(mode=0o700, exist_ok=True)
    number, made = tempfile.mkstemp(suffix=".so", dir=folder)
    os.close(number)
    options = ["-O1", "-w", "-shared", "-fPIC", "-Wl,-soname,libcuda.so.1", f"-I{cuda_headers()}"]
    subprocess.run([str(compiler()), *options, str(SOURCE), "-o", made, "-lpthread"], check=True)
    Path(made).replace(path)
    return path


def pretending_environment(env: dict[str, str]) -> dict[str, str]:
    """`env` with what makes a Python process, and every process it starts, pretend."""
    library = str(compiled_library())
    path = os.pathsep.join(filter(None, [str(SITE), str(ROOT), env.get("PYTHONPATH", "")]))
    return env | {LIBRARY: library, "LD_PRELOAD": library, "PYTHONPATH": path}


def enter() -> None:
    """Starts this process anew as one that pretends, unless it does already."""
    if LIBRARY not in os.environ:
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], pretending_environment(dict(os.environ)))


@functools.cache
def loaded_runtime() -> ctypes.CDLL:
    """The runtime of this process."""
    library = ctypes.CDLL(os.environ[LIBRARY])
    library.pretended_peak_bytes.restype = ctypes.c_size_t
    library.pretended_refused_launches.restype = ctypes.c_long
    library.pretended_refused_allocations.restype = ctypes.c_long
    return library

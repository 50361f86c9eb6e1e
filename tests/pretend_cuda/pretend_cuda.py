"""A plugin of pytest's (`-p pretend_cuda`): torch has one CUDA device, whose memory is the CPU's (device.cpp).

For what no CPU shows, and no GPU is needed for: that no operation mixes tensors of the two, and that what goes by
"cuda" runs at all. Kernels, memory and speed are a GPU's own, and nothing here says anything about them.

Imported before torch, which asks once what there is. The library is compiled at first (half a minute).
"""

from __future__ import annotations

import ctypes
import importlib.util
import subprocess
import sys
import types
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

SOURCE = Path(__file__).with_name("device.cpp")
TORCH = Path(importlib.util.find_spec("torch").origin).parent
LIBRARY = SOURCE.parents[2] / "build" / "pretend_cuda.so"


def build() -> None:
    if LIBRARY.exists() and LIBRARY.stat().st_mtime > max(map(modified, (SOURCE, TORCH / "version.py"))):
        return
    LIBRARY.parent.mkdir(exist_ok=True)
    print("compiling the device that is pretended ...", file=sys.stderr)
    include = TORCH / "include"
    folders = [f"-I{include}", f"-I{include / 'torch/csrc/api/include'}", f"-L{TORCH / 'lib'}"]
    options = ["-std=c++20", "-O1", "-fPIC", "-shared", "-w", *folders]
    beside = LIBRARY.with_suffix(".new")
    subprocess.run(["g++", *options, str(SOURCE), "-ltorch_cpu", "-lc10", "-o", str(beside)], check=True)
    beside.rename(LIBRARY)


def modified(path: Path) -> float:
    return path.stat().st_mtime


def load() -> None:
    for name in ("libc10", "libtorch_cpu"):
        ctypes.CDLL(str(TORCH / "lib" / f"{name}.so"), mode=ctypes.RTLD_GLOBAL)
    ctypes.CDLL(str(LIBRARY), mode=ctypes.RTLD_GLOBAL)


def pretend() -> None:
    """Have `torch.cuda` answer as with one device."""
    import torch

    properties = types.SimpleNamespace(
        name="Pretended",
        total_memory=24 << 30,
        major=8,
        minor=0,
        multi_processor_count=8,
        warp_size=32,
        uuid="0",
    )

    class Event:
        def __init__(self, *_: Any, **__: Any) -> None: ...
        def record(self, *_: Any) -> None: ...
        def synchronize(self) -> None: ...
        def wait(self, *_: Any) -> None: ...
        def query(self) -> bool:
            return True

        def elapsed_time(self, _: Any) -> float:
            return 1.0

    class Stream:
        def __init__(self, *_: Any, **__: Any) -> None:
            self.device, self.cuda_stream = torch.device("cuda", 0), 0

        def synchronize(self) -> None: ...
        def wait_stream(self, *_: Any) -> None: ...
        def wait_event(self, *_: Any) -> None: ...
        def record_event(self, *_: Any) -> Event:
            return Event()

    @contextmanager
    def nowhere_else(_: Any) -> Any:
        yield

    def gives(value: Any) -> Any:
        return lambda *_, **__: (
            value
        )  # a function of its own each time: torch's compiler refuses one of two names

    nothing = (
        "_lazy_init init set_device synchronize empty_cache reset_peak_memory_stats ipc_collect manual_seed "
        "manual_seed_all seed seed_all reset_max_memory_allocated"
    )
    sizes = "memory_allocated max_memory_allocated memory_reserved max_memory_reserved"
    # Random numbers come from the CPU's generator, whose state is kept as that.
    states = {
        "get_rng_state": lambda *_: torch.get_rng_state(),
        "get_rng_state_all": lambda: [torch.get_rng_state()],
        "set_rng_state": gives(None),
        "set_rng_state_all": gives(None),
    }
    answers = {
        "is_available": gives(True),
        "is_initialized": gives(True),
        "device_count": gives(1),
        "current_device": gives(0),
        "get_device_name": gives(properties.name),
        "get_device_properties": gives(properties),
        "get_device_capability": gives((8, 0)),
        "get_arch_list": gives(["sm_80"]),
        "mem_get_info": gives((20 << 30, 24 << 30)),
        "memory_stats": gives({}),
        "is_bf16_supported": gives(True),
        "initial_seed": gives(0),
        "_is_in_bad_fork": gives(False),
        "is_current_stream_capturing": gives(False),
        "current_stream": lambda *_: Stream(),
        "default_stream": lambda *_: Stream(),
        "stream": lambda _: nullcontext(),
        "device": nowhere_else,
        "device_of": contextmanager(nowhere_else.__wrapped__),
        "Event": Event,
        "Stream": Stream,
        **{name: gives(None) for name in nothing.split()},
        **{name: gives(1 << 20) for name in sizes.split()},
        **states,
    }
    for name, value in answers.items():
        setattr(torch.cuda, name, value)
    for name, value in states.items():
        setattr(torch.cuda.random, name, value)

    def clone(storage: Any) -> Any:
        if storage.device.type != "cuda":
            return type(storage)(storage.nbytes(), device=storage.device).copy_(storage)
        return torch.empty(0, dtype=torch.uint8, device="cuda").set_(storage).clone().untyped_storage()

    torch.UntypedStorage.clone = clone  # which makes one by device only where there is CUDA


build()
load()
pretend()

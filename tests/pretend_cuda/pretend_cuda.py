"""A plugin of pytest's (`-p pretend_cuda`): torch has one CUDA device, whose memory is the CPU's (device.cpp).

For what no CPU shows, and no GPU is needed for: that no operation mixes tensors of the two, and that what goes by
"cuda" runs at all. Kernels, memory and speed are a GPU's own, and nothing here says anything about them.

Imported before torch, which asks once what there is. The library is compiled at first (half a minute).
"""

from __future__ import annotations

import ctypes
import fcntl
import importlib.util
import os
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
    LIBRARY.parent.mkdir(exist_ok=True)
    with LIBRARY.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the processes of a launcher come at once
        _build()


def _build() -> None:
    if LIBRARY.exists() and LIBRARY.stat().st_mtime > max(map(modified, (SOURCE, TORCH / "version.py"))):
        return
    print("compiling the device that is pretended ...", file=sys.stderr)
    include = TORCH / "include"
    folders = [f"-I{include}", f"-I{include / 'torch/csrc/api/include'}", f"-L{TORCH / 'lib'}"]
    options = ["-std=c++20", "-O1", "-fPIC", "-shared", "-w", *folders]
    beside = LIBRARY.with_suffix(".new")
    subprocess.run(["g++", *options, str(SOURCE), "-ltorch_cpu", "-lc10", "-o", str(beside)], check=True)
    beside.rename(LIBRARY)


def modified(path: Path) -> float:
    return path.stat().st_mtime


def load() -> ctypes.CDLL:
    for name in ("libc10", "libtorch_cpu"):
        ctypes.CDLL(str(TORCH / "lib" / f"{name}.so"), mode=ctypes.RTLD_GLOBAL)
    return ctypes.CDLL(str(LIBRARY), mode=ctypes.RTLD_GLOBAL)


def pretend(library: ctypes.CDLL, count: int) -> None:
    """Have `torch.cuda` answer as with so many devices."""
    import torch
    import torch.distributed

    library.pretend_devices(count)

    properties = types.SimpleNamespace(
        name="Pretended",
        total_memory=24 << 30,
        major=8,
        minor=0,
        multi_processor_count=8,
        warp_size=32,
        uuid="0",
    )

    class Event(torch.Event):
        def __new__(cls, *_: Any, **__: Any) -> Any:
            return super().__new__(cls, device="cuda")

        def elapsed_time(self, _: Any) -> float:
            return 1.0

    class Stream(torch.Stream):
        def __new__(cls, *_: Any, **__: Any) -> Any:
            return super().__new__(cls, device=torch.device("cuda", library.pretend_current_device()))

    def set_device(device: Any) -> None:
        library.pretend_set_device(device if isinstance(device, int) else torch.device(device).index or 0)

    @contextmanager
    def on(device: Any) -> Any:
        before = library.pretend_current_device()
        if device is not None:
            set_device(device)
        try:
            yield
        finally:
            library.pretend_set_device(before)

    def gives(value: Any) -> Any:
        return lambda *_, **__: (
            value
        )  # a function of its own each time: torch's compiler refuses one of two names

    nothing = (
        "_lazy_init init synchronize empty_cache reset_peak_memory_stats ipc_collect manual_seed "
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
        "device_count": gives(count),
        "set_device": set_device,
        "current_device": lambda: library.pretend_current_device(),
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
        "device": on,
        "device_of": lambda tensor: on(tensor.device),
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

    resize = torch.UntypedStorage.resize_

    def resize_(storage: Any, size: int) -> None:
        if storage.device.type == "cuda":
            library.pretend_resize_storage(ctypes.c_void_p(storage._cdata), ctypes.c_size_t(size))
        else:
            resize(storage, size)

    # Which torch's own do only where it was compiled with CUDA.
    torch.UntypedStorage.clone, torch.UntypedStorage.resize_ = clone, resize_

    begin = torch.distributed.init_process_group

    def init_process_group(backend: str | None = None, *arguments: Any, **options: Any) -> None:
        begin("cpu:gloo,cuda:gloo", *arguments, **options)

    gather = torch.distributed.all_gather_into_tensor

    def all_gather_into_tensor(whole: Any, part: Any, *arguments: Any, **options: Any) -> Any:
        return gather(whole.view(-1), part.reshape(-1), *arguments, **options)  # gloo wants one shape of both

    torch.distributed.init_process_group = init_process_group
    torch.distributed.all_gather_into_tensor = all_gather_into_tensor


os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # no word of kernels that are replaced
build()
pretend(load(), int(os.environ.get("LOCAL_WORLD_SIZE", "1")))  # one for each process under a launcher

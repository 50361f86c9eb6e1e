"""For the processes that tests start: they have the pretended device, too."""

import os

if os.environ.get("PRETEND_CUDA"):
    import pretend_cuda  # noqa: F401

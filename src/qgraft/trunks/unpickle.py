"""The only code that opens a pickle: a process of its own that turns one into plain tensors.

Run as `python -m qgraft.trunks.unpickle IN OUT`. The process may not start others, reach the
network, open files for writing while the pickle is read, or grow beyond fixed limits of memory and
time; torch's `weights_only` unpickler is asked for besides. Exit code 3 and one line on standard
error mean a refusal.
"""

from __future__ import annotations

import os
import resource
import sys
from pathlib import Path
from typing import Any

from qgraft.errors import WeightsError

SECONDS = 120
MEMORY = 12 * 2**30
# Where frameworks put the weights among epoch numbers and optimiser states.
NESTED = ("state_dict", "model_state_dict", "model", "weights")
# What no weights file needs while it is read; "open" is watched apart.
FORBIDDEN = (
    "os.system", "os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn", "os.startfile",
    "os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "os.truncate",
    "os.chmod", "os.chown", "os.kill", "os.putenv", "subprocess.", "socket.", "shutil.", "pty.",
    "ctypes.", "urllib.", "webbrowser.", "pickle.find_class",
)  # fmt: skip


def main(source: Path, target: Path) -> None:
    """Write the tensors of the pickle `source` to the safetensors file `target`."""
    import torch

    from qgraft.training.checkpoint import save_tensors

    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    guard = _Guard()
    sys.addaudithook(guard)
    try:
        guard.watching = True
        value = torch.load(source, map_location="cpu", weights_only=True)
        guard.watching = False
        tensors = named_tensors(value)
    except MemoryError:
        raise WeightsError("it needs more memory than allowed") from None
    except WeightsError:
        raise
    except Exception as error:  # an unpickler meets hostile bytes with exceptions of every type
        reason = str(error).strip().partition("\n")[0][:200] or type(error).__name__
        raise WeightsError(f"it is not a file of plain tensors ({reason})") from None
    save_tensors(target, tensors)


class _Guard:
    """An audit hook that ends the process at the first forbidden thing while it watches."""

    watching = False

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.watching:
            return
        writes = event == "open" and (
            any(letter in str(arguments[1]) for letter in "wax+")
            or (isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR))
        )
        if writes or event.startswith(FORBIDDEN):
            os.write(2, f"it tries to do {event}, which no weights file needs\n".encode())
            os._exit(3)


def named_tensors(value: Any) -> dict[str, Any]:
    """Return the tensors of an unpickled state dict by name, each with memory of its own.

    Raises:
        WeightsError: the value is no dictionary of dense tensors of numbers.
    """
    import torch

    for key in NESTED:
        if isinstance(value, dict) and isinstance(value.get(key), dict):
            value = value[key]
            break
    if not isinstance(value, dict) or not value:
        raise WeightsError(f"it holds a {type(value).__name__}, not a dictionary of tensors")
    for name, tensor in value.items():
        if not isinstance(name, str) or type(tensor) not in (torch.Tensor, torch.nn.Parameter):
            raise WeightsError(f"its entry {str(name)[:80]!r} is a {type(tensor).__name__}")
        if tensor.layout != torch.strided or tensor.is_quantized:
            raise WeightsError(f"its tensor {name[:80]!r} is sparse or quantised")
        if not torch.isfinite(tensor).all():
            raise WeightsError(f"its tensor {name[:80]!r} holds values that are not finite")
    return {name: tensor.detach().clone().contiguous() for name, tensor in value.items()}


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]), Path(sys.argv[2]))
    except WeightsError as refusal:
        sys.stderr.write(f"{refusal}\n")
        sys.exit(3)

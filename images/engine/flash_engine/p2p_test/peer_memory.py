"""GPU memory that another process can read and write, by CUDA IPC, through the driver's own interface.

Torch shares memory too, but for torch: it opens what is on another GPU as that GPU's, which a kernel of ours may not
touch. Opened from this rank's GPU, as here and in vLLM, the driver lets this GPU reach it.
"""

import ctypes
from typing import Any

import torch
import torch.distributed as dist

from flash_engine.p2p_test.checks import RefusedError
from flash_engine.p2p_test.variants import WORLD

_LAZY_ENABLE_PEER_ACCESS = 1
_HANDLE_BYTES = 64


class _Handle(ctypes.Structure):
    _fields_ = (("reserved", ctypes.c_char * _HANDLE_BYTES),)


class PeerMemory:
    """The same number of zeroed bytes on both ranks. Raises RefusedError where CUDA IPC does not work.

    It is held until the process ends.
    """

    def __init__(self, size: int, rank: int, device: torch.device) -> None:
        torch.zeros(1, device=device)  # makes this GPU's context the current one
        self._driver = ctypes.CDLL("libcuda.so.1")
        self.own = self._allocated(size)
        handles: list[bytes | None] = [None] * WORLD
        dist.all_gather_object(handles, self._shared())
        self.peer = self._opened(handles[1 - rank] or b"")
        # Nobody writes before both have zeroed and opened.
        dist.barrier()

    def _allocated(self, size: int) -> int:
        address = ctypes.c_uint64()
        self._call("cuMemAlloc_v2", ctypes.byref(address), ctypes.c_size_t(size))
        self._call("cuMemsetD8_v2", address, ctypes.c_ubyte(0), ctypes.c_size_t(size))
        torch.cuda.synchronize()
        return address.value

    def _shared(self) -> bytes:
        handle = _Handle()
        self._ipc("cuIpcGetMemHandle", ctypes.byref(handle), ctypes.c_uint64(self.own))
        return bytes(handle)

    def _opened(self, handle: bytes) -> int:
        address = ctypes.c_uint64()
        copy = _Handle.from_buffer_copy(handle)
        self._ipc("cuIpcOpenMemHandle_v2", ctypes.byref(address), copy, ctypes.c_uint(_LAZY_ENABLE_PEER_ACCESS))
        return address.value

    def _ipc(self, name: str, *arguments: Any) -> None:
        try:
            self._call(name, *arguments)
        except OSError as error:
            raise RefusedError(str(error)) from error

    def _call(self, name: str, *arguments: Any) -> None:
        """Raises OSError with the driver's own name for what is wrong."""
        code = getattr(self._driver, name)(*arguments)
        if code:
            words = ctypes.c_char_p()
            self._driver.cuGetErrorName(code, ctypes.byref(words))
            raise OSError(f"{name}: {(words.value or b'unknown error').decode()} ({code})")

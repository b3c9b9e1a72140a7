"""The CUDA driver by ctypes: enough to hold memory on a GPU and to count what a process sees, without torch.

``python cuda_driver.py MIB`` prints ``held`` and holds that much on the first visible GPU until its input ends.
"""

from __future__ import annotations

import ctypes
import sys


class Cuda:
    """The driver's library, initialised. Raises ``OSError`` without one, ``RuntimeError`` for each refusal."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL("libcuda.so.1")
        self._call("cuInit", ctypes.c_uint(0))

    def _call(self, name: str, *arguments: object) -> None:
        function = getattr(self._library, name)
        function.restype = ctypes.c_int
        if code := function(*arguments):
            raise RuntimeError(f"{name}: CUDA error {code}")

    def count(self) -> int:
        """GPUs that this process sees."""
        found = ctypes.c_int()
        self._call("cuDeviceGetCount", ctypes.byref(found))
        return found.value

    def hold(self, size: int) -> None:
        """``size`` bytes on the first GPU, until the process ends."""
        device, context, address = ctypes.c_int(), ctypes.c_void_p(), ctypes.c_uint64()
        self._call("cuDeviceGet", ctypes.byref(device), ctypes.c_int(0))
        # The primary context: its functions keep their names over all versions of the driver.
        self._call("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
        self._call("cuCtxSetCurrent", context)
        self._call("cuMemAlloc_v2", ctypes.byref(address), ctypes.c_size_t(size))


if __name__ == "__main__":
    Cuda().hold(int(sys.argv[1]) * 2**20)
    print("held", flush=True)
    sys.stdin.read()

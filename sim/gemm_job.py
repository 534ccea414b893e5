"""A compiled GEMM as a co-simulation job: memory map, the run, and the words that the golden model expects."""

import numpy as np

from .cosim import Job, Run, differing_words
from .golden.layer import linear

__all__ = ["GemmJob"]

PAGE = 4096
NOISE_SEED = 1


class GemmJob:
    """C = x W^T by the program of ``compile_gemm``. Memory starts as noise wherever nothing is known of it.

    Parameters
    ----------
    config : AcceleratorConfig
    compiled : CompiledGemm
    x : float32 [m, k]
    weights : QuantisedMatrix or float16 array    those that were compiled, [n, k]

    Attributes ``compiled``, ``caches`` and ``described`` (each run but its counters) are for ``report.write_trace``.
    """

    def __init__(self, config, compiled, x, weights):
        self._config, self.compiled, self.caches = config, compiled, ()
        self.described = [{"name": "GEMM", "kind": "prefill", "position": 0, "tokens": len(x)}]
        self._io_base = -(-len(compiled.image) // PAGE) * PAGE
        self.bytes = self._io_base + compiled.io_size
        self._image = np.random.default_rng(NOISE_SEED).integers(0, 256, self.bytes, np.uint8)
        self._image[:len(compiled.image)] = np.frombuffer(compiled.image, np.uint8)
        self._put(self._image, compiled.x, compiled.x_row_bytes, x)
        self.expected_memory = self._image.copy()
        self._put(self.expected_memory, compiled.c, compiled.c_row_bytes,
                  linear(x, weights))

    def _put(self, array, offset, row_bytes, values):
        """Write FP32 rows to region 2."""
        rows = array[self._io_base + offset:][:len(values) * row_bytes].reshape(len(values), row_bytes)
        rows[:, :4 * values.shape[1]] = np.ascontiguousarray(values, "<f4").view(np.uint8)

    @property
    def image(self):
        """Memory at the start."""
        return self._image.tobytes()

    def job(self, memory, *, watchdog=1_000_000):
        """The job with the memory model's settings ``memory``."""
        compiled = self.compiled
        regions = ((0, len(compiled.image), False), (0, 0, False), (self._io_base, compiled.io_size, True))
        run = Run(compiled.program, (), regions, label="GEMM")
        return Job((run,), (0, self.bytes), int(self._config.sha256[:8], 16), memory, watchdog)

    def compare(self, memory):
        """``cosim.differing_words`` of all of the memory."""
        return differing_words(memory, self.expected_memory)

    def place(self, offset):
        """What lies at an offset of the memory, in words."""
        at = offset - self._io_base - self.compiled.c
        if at < 0:
            return "program, weights or X"
        row, byte = divmod(at, self.compiled.c_row_bytes)
        return f"C, row {row}, column {byte // 4}"

"""Fixtures for several folders: the command line, a real model, whose file comes the way a user gets it and stays in
the cache, and floating point, with Berkeley SoftFloat as a reference that shares nothing with NumPy or the RTL."""

import numpy as np
import pytest
import softfloatpy

from tilewright.gen import cli
from tilewright.gen.checkpoint.gguf_file import GgufCheckpoint
from tilewright.gen.fetch import fetch
from tilewright.gen.model import load_model


@pytest.fixture(scope="session")
def smollm2_model():
    """Description of SmolLM2-135M-Instruct."""
    return load_model("smollm2-135m")


@pytest.fixture(scope="session")
def smollm2(smollm2_model):
    """Its GGUF file, open."""
    return GgufCheckpoint(fetch(smollm2_model, progress=False), smollm2_model)


@pytest.fixture
def command(capsys, monkeypatch, tmp_path):
    """Function (arguments) -> exit code, standard output, standard error of ``tilewright``, in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        with pytest.raises(SystemExit) as end:
            cli.main([str(argument) for argument in arguments])
        return end.value.code, *capsys.readouterr()
    return run


_CORNERS = np.array([sign | bits for sign in (0, 1 << 31) for bits in (
    0x00000000, 0x00000001, 0x00400000, 0x007FFFFF,  # zero and subnormals
    0x00800000, 0x00800001, 0x00FFFFFF, 0x01000000, 0x01000001,  # near 2^-126
    0x0B800000, 0x1F800000, 0x1FFFFFFF, 0x20000000, 0x33800000, 0x34000000,  # 2^-104, 2^-64, 2^-63, 2^-24, 2^-23
    0x3F000000, 0x3F7FFFFF, 0x3F800000, 0x3F800001, 0x3FFFFFFF, 0x40000000,  # around 1
    0x4B7FFFFF, 0x4B800000, 0x4B800001, 0x4C000000, 0x5F7FFFFF, 0x5F800000,  # around 2^24 and 2^64
    0x7E800000, 0x7EFFFFFF, 0x7F000000, 0x7F7FFFFE, 0x7F7FFFFF,  # near overflow
    0x7F800000, 0x7F800001, 0x7FC00000, 0x7FC12345, 0x7FFFFFFF,  # infinity and NaN
)], dtype=np.uint32)


@pytest.fixture(scope="session")
def fp32_operands():
    """Function (count, seed) -> three arrays of FP32 bits: every pair of corners first, then random operands of which
    many are corners, have few bits set, lie close to the first operand's exponent or its negative (cancellation), or
    have a product or a sum near 2^-126, near overflow, or near the third operand's negative."""
    def operands(count, seed):
        print(f"seed {seed}")
        rng = np.random.default_rng(seed)
        a, b, c = rng.integers(0, 1 << 32, (3, count), dtype=np.uint32)
        for x in (a, b, c):
            kind = rng.integers(0, 8, count)
            sparse = x & rng.integers(0, 1 << 32, count, dtype=np.uint32) & rng.integers(0, 1 << 32, count, np.uint32)
            sparse = (x & 0xFF800000) | (sparse & 0x7FFFFF)
            x[:] = np.select([kind == 0, kind <= 2], [rng.choice(_CORNERS, count), sparse], x)
        kind, step = rng.integers(0, 8, count), rng.integers(-3, 4, count)
        exponent = (a >> 23 & 255).astype(np.int64)
        wanted = np.select([kind == 0, kind == 1, kind == 2, kind == 3],
                           [exponent + step, 127 - exponent + step, 381 - exponent + step, exponent + 8 * step])
        fits = (kind <= 3) & (wanted > 0) & (wanted < 255)
        b[:] = np.where(fits, (b & 0x807FFFFF) | (wanted.clip(0, 255) << 23), b)
        b[:] = np.where(kind == 4, (a ^ 0x80000000) + step.astype(np.uint32), b)
        with np.errstate(all="ignore"):
            product = (a.view(np.float32) * b.view(np.float32)).view(np.uint32)
        c[:] = np.where(rng.integers(0, 3, count) == 0, (product ^ 0x80000000) + step.astype(np.uint32), c)
        pairs = min(count, len(_CORNERS) ** 2)
        a[:pairs], b[:pairs] = np.repeat(_CORNERS, len(_CORNERS))[:pairs], np.tile(_CORNERS, len(_CORNERS))[:pairs]
        return a, b, c
    return operands


class _SoftFloat:
    """SoftFloat on arrays of bits, with the flush and NaN rules of docs/numerics.md around it."""

    def __init__(self):
        softfloatpy.set_rounding_mode(softfloatpy.RoundingMode.NEAR_EVEN)
        softfloatpy.set_tininess_mode(softfloatpy.TininessMode.BEFORE_ROUNDING)

    @staticmethod
    def _flushed(x):
        return np.where(x & 0x7F800000, x, x & 0x80000000)

    def _binary(self, function, a, b):
        make = softfloatpy.Float32.from_bytes
        rows = np.column_stack([self._flushed(a), self._flushed(b)]).astype(">u4").tobytes()
        results, tiny = bytearray(), bytearray()
        for i in range(0, len(rows), 8):
            softfloatpy.set_exception_flags(0)
            results += function(make(rows[i:i + 4]), make(rows[i + 4:i + 8])).to_bytes()
            tiny.append(bool(softfloatpy.get_exception_flags() & softfloatpy.ExceptionFlag.UNDERFLOW))
        bits = np.frombuffer(results, ">u4").astype(np.uint32)
        bits = np.where(np.frombuffer(tiny, bool), bits & 0x80000000, self._flushed(bits))
        return np.where((bits & 0x7FFFFFFF) > 0x7F800000, 0x7FC00000, bits).astype(np.uint32)

    def mul(self, a, b):
        return self._binary(softfloatpy.f32_mul, a, b)

    def add(self, a, b):
        return self._binary(softfloatpy.f32_add, a, b)

    def madd(self, a, b, c):
        return self.add(self.mul(a, b), c)

    def from_fp16(self, h):
        results = b"".join(softfloatpy.f16_to_f32(softfloatpy.Float16.from_bytes(x.to_bytes(2))).to_bytes()
                           for x in h.tolist())
        bits = np.frombuffer(results, ">u4").astype(np.uint32)
        return np.where((bits & 0x7FFFFFFF) > 0x7F800000, 0x7FC00000, bits).astype(np.uint32)

    def to_fp16(self, x):
        results = b"".join(softfloatpy.f32_to_f16(softfloatpy.Float32.from_bytes(x.to_bytes(4))).to_bytes()
                           for x in x.tolist())
        bits = np.frombuffer(results, ">u2").astype(np.uint16)
        return np.where((bits & 0x7FFF) > 0x7C00, 0x7E00, bits).astype(np.uint16)

    def from_int(self, i):
        results = b"".join(softfloatpy.i64_to_f32(softfloatpy.Int64.from_bytes(x.to_bytes(8, signed=True))).to_bytes()
                           for x in i.tolist())
        return np.frombuffer(results, ">u4").astype(np.uint32)


@pytest.fixture(scope="session")
def softfloat():
    """Reference for mul, add, madd, from_fp16, to_fp16 and from_int on arrays of bits."""
    return _SoftFloat()


@pytest.fixture(scope="session")
def near_fp16():
    """FP32 bits near a decision of rounding to FP16: every FP16 number, the middle to the next, and its neighbours."""
    h = np.arange(0x7C01, dtype=np.uint16)
    with np.errstate(over="ignore"):
        exact = h.view(np.float16).astype(np.float64)
    exact[-1] = 65536.0
    middle = ((exact[:-1] + exact[1:]) / 2).astype(np.float32).view(np.uint32)
    exact = exact.astype(np.float32).view(np.uint32)
    bits = np.concatenate([exact, middle, middle - 1, middle + 1])
    return np.concatenate([bits, bits | 0x80000000, _CORNERS]).astype(np.uint32)

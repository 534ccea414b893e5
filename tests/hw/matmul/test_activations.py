# amaranth: UnusedElaboratable=no
"""The activation buffer: strobes, banks, delay, faults."""

import numpy as np
import pytest
from amaranth.sim import Simulator

from tilewright.hw.matmul.activations import ActivationBuffer

SEED = 40


def simulate(dut, bench):
    sim = Simulator(dut)
    sim.add_clock(1e-8)
    sim.add_testbench(bench)
    sim.run()


@pytest.mark.parametrize(("rows", "depth", "lanes"), [(1, 32, 1), (2, 64, 2), (4, 64, 8), (16, 64, 4)])
def test_random_writes_and_reads(rows, depth, lanes):
    """Data and codes come ``delay`` and ``code_delay`` cycles after their address, a read every cycle beside a write
    every other, which is stored a cycle later."""
    rng = np.random.default_rng(SEED)
    print("seed", SEED)
    dut = ActivationBuffer(rows=rows, depth=depth, lanes=lanes)
    data, codes = np.zeros((depth, rows), np.uint8), np.zeros((depth // 32, rows), np.uint8)

    async def bench(ctx):
        port, reads = dut.write, []
        stored, code_stored = 0, None    # index, and row and block, of the write before
        late = []                        # what it writes
        for cycle in range(1500):
            row, block = int(rng.integers(rows)), int(rng.integers(depth // 32))
            index, mask = int(rng.integers(depth // lanes)) * lanes, int(rng.integers(1 << lanes))
            values, code = rng.integers(0, 256, lanes).astype(np.uint8), int(rng.integers(152))
            valid, scale_valid = (bool(rng.integers(2)) for _ in range(2))
            # What is read while it is stored would be undefined.
            read_index = (stored + lanes + int(rng.integers(depth - lanes))) % depth
            read_row, read_block = int(rng.integers(rows)), int(rng.integers(depth // 32))
            for signal, value in ((port.valid, valid), (port.row, row), (port.index, index), (port.mask, mask),
                                  (port.data, int.from_bytes(values.tobytes(), "little")),
                                  (port.scale_valid, scale_valid), (port.scale_row, row), (port.scale_block, block),
                                  (port.scale_code, code), (dut.index, read_index), (dut.scale_row, read_row),
                                  (dut.scale_block, read_block)):
                ctx.set(signal, value)
            assert not ctx.get(port.fault)
            reads.append((int.from_bytes(data[read_index].tobytes(), "little"),
                          None if code_stored == (read_row, read_block) else int(codes[read_block, read_row])))
            if cycle >= dut.delay:
                assert ctx.get(dut.data) == reads[cycle - dut.delay][0]
            if cycle >= dut.code_delay and reads[cycle - dut.code_delay][1] is not None:
                assert ctx.get(dut.code) == reads[cycle - dut.code_delay][1]
            await ctx.tick()
            for array, at, value in late:
                array[at] = value
            late = [(data, (index + i, row), values[i]) for i in range(lanes) if valid and mask >> i & 1]
            late += [(codes, (block, row), code)] if scale_valid else []
            stored, code_stored = index, (row, block) if scale_valid else None

    simulate(dut, bench)


@pytest.mark.parametrize(("rows", "fp16_rows"), [(4, 2), (4, 4), (0, 2), (2, 1)])
def test_fp16_rows_are_two_columns(rows, fp16_rows):
    """Random writes of both formats over each other; masked indices and other columns keep their bytes."""
    rng, lanes, depth = np.random.default_rng(SEED), 2, 64
    print("seed", SEED)
    dut = ActivationBuffer(rows=rows, fp16_rows=fp16_rows, depth=depth, lanes=lanes)
    columns = max(rows, 2 * fp16_rows)
    expected = np.zeros((depth, columns), np.uint8)

    async def bench(ctx):
        port = dut.write
        ctx.set(port.valid, 1)
        for _ in range(400):
            half = bool(rng.integers(2))
            row, index, mask = int(rng.integers(5)), int(rng.integers(depth // lanes)) * lanes, int(rng.integers(4))
            values = rng.integers(0, 256, 2 * lanes).astype(np.uint8)
            fault = row >= (fp16_rows if half else rows)
            for signal, value in ((port.half, half), (port.row, row), (port.index, index), (port.mask, mask),
                                  (port.data, int.from_bytes(values.tobytes(), "little"))):
                ctx.set(signal, value)
            assert ctx.get(port.fault) == fault
            await ctx.tick()
            for i in range(lanes):
                if mask >> i & 1 and not fault:
                    if half:
                        expected[index + i, 2 * row:2 * row + 2] = values[2 * i:2 * i + 2]
                    else:
                        expected[index + i, row] = values[i]
        ctx.set(port.valid, 0)
        await ctx.tick()
        for index in range(depth):
            ctx.set(dut.index, index)
            await ctx.tick().repeat(dut.delay)
            assert ctx.get(dut.data) == int.from_bytes(expected[index].tobytes(), "little")

    simulate(dut, bench)


@pytest.mark.parametrize("field", [
    {"valid": 1, "index": 64}, {"valid": 1, "row": 4}, {"valid": 1, "index": 65532}, {"valid": 1, "row": 0x8000},
    {"scale_valid": 1, "scale_row": 4}, {"scale_valid": 1, "scale_block": 2}, {"scale_valid": 1, "scale_block": 1024},
])
def test_faults_write_nothing(field):
    dut = ActivationBuffer(rows=4, depth=64, lanes=4)

    async def bench(ctx):
        ctx.set(dut.write.data, 0x01010101)
        ctx.set(dut.write.mask, 15)
        ctx.set(dut.write.scale_code, 7)
        for name, value in field.items():
            ctx.set(getattr(dut.write, name), value)
        assert ctx.get(dut.write.fault)
        await ctx.tick()
        ctx.set(dut.write.valid, 0)
        ctx.set(dut.write.scale_valid, 0)
        assert not ctx.get(dut.write.fault)
        for index in range(64):
            ctx.set(dut.index, index)
            ctx.set(dut.scale_row, index % 4)
            ctx.set(dut.scale_block, index // 4 % 2)
            await ctx.tick().repeat(dut.delay)
            assert ctx.get(dut.data) == 0 and ctx.get(dut.code) == 0

    simulate(dut, bench)


@pytest.mark.parametrize(("sizes", "message"), [
    ({"rows": 3, "depth": 64, "lanes": 4}, "rows must be a power of two, not 3"),
    ({"rows": 0, "depth": 64, "lanes": 4}, "rows and fp16_rows must not both be 0"),
    ({"rows": 0, "fp16_rows": 3, "depth": 64, "lanes": 4}, "fp16_rows must be a power of two, not 3"),
    ({"rows": 4, "depth": 16, "lanes": 4}, "depth must be a multiple of 32"),
    ({"rows": 4, "depth": 64, "lanes": 0}, "lanes must be a power of two, not 0"),
])
def test_refusals(sizes, message):
    with pytest.raises(ValueError, match=message):
        ActivationBuffer(**sizes)

"""The sequencer alone: programs in a behavioural memory, units that take and finish commands in their own time."""

import random

import pytest
from amaranth.sim import Simulator

from tilewright.hw.commands import Condition, Opcode, ScalarOp, Unit, decode, encode
from tilewright.hw.registers import ErrorCode
from tilewright.hw.sequencer.sequencer import Sequencer

SEED = 20
UNITS = {Opcode[unit.name]: unit for unit in Unit}


class Bench:
    """Runs one sequencer; ``issued`` collects (unit, fields) in the order in which units take commands.

    The program lies in region 0, ``data`` in region 2; every STORE adds one to the first byte of ``data`` at its end.
    ``fetched`` is what each run read of region 0, in bytes; ``again`` are further runs: (keep, offset of the program,
    command to put at offset 64 before), without bus errors.
    """

    def __init__(self, program, *, width=64, region_bytes=None, bus_error_at=None, unit_error=None, watchdog=0,
                 start=64, arguments=(), stall=0.3, unit_time=20, hang=None, data=bytes(64), commands=8,
                 again=()):
        self.width, self.beat_bytes = width, width // 8
        words = [0] * (start // 4) + [word for command in program for word in command]
        self.memory = {0: b"".join(word.to_bytes(4, "little") for word in words), 2: bytearray(data)}
        self.sizes = {number: len(content) for number, content in self.memory.items()}
        self.sizes[0] = region_bytes or self.sizes[0]
        self.bus_error_at, self.unit_error, self.hang = bus_error_at, unit_error, hang
        self.start, self.watchdog, self.arguments = start, watchdog, arguments
        self.random = random.Random(SEED)
        self.stall, self.unit_time = stall, unit_time
        self.issued, self.unfinished = [], dict.fromkeys(Unit, 0)
        self.at_issue = []
        self.asking, self.request, self.quiet = False, None, True
        self.result = None
        self.again, self.fetched = again, []
        self.dut = Sequencer(width=width, commands=commands)

    async def memory_process(self, ctx):
        """Takes a request as it first stands and answers it cycles later, unless it is taken back meanwhile."""
        read, queue, taken = self.dut.read, [], None
        while True:
            valid = bool(queue) and self.random.random() > self.stall
            ctx.set(read.beat_valid, valid)
            if valid:
                region, at = queue[0]
                ctx.set(read.beat, int.from_bytes(self.memory[region][at:at + self.beat_bytes], "little"))
                ctx.set(read.beat_error, (region, at) == self.bus_error_at)
            ready = taken is not None and self.random.random() > self.stall
            outside = ready and taken[1] + taken[2] * self.beat_bytes > self.sizes.get(taken[0], 0)
            ctx.set(read.request_ready, ready)
            ctx.set(read.fault, outside)
            await ctx.tick()
            if valid:
                queue.pop(0)
            if ready and self.asking and not outside:
                self.fetched[-1] += taken[2] * self.beat_bytes * (taken[0] == 0)
                queue += [(taken[0], taken[1] + i * self.beat_bytes) for i in range(taken[2])]
            taken = None if ready or not self.asking else taken or self.request
            self.quiet = not queue
            ctx.set(self.dut.bus_idle, self.quiet)

    async def watch_requests(self, ctx):
        """What stands on the request lines at each clock edge."""
        read, standing = self.dut.read, False
        async for _, _, ready, valid, *request in ctx.tick().sample(
                read.request_ready, read.request_valid, read.request_region, read.request_offset, read.request_beats):
            assert not (standing and valid and self.request != request), "a request must stand unchanged"
            self.asking, self.request, standing = valid, request, valid and not ready

    def unit_process(self, unit):
        port = getattr(self.dut, unit.name.lower())
        status = getattr(self.dut, f"status_{unit.name.lower()}")
        rng = random.Random(SEED + unit)

        async def process(ctx):
            ctx.set(port.ready, 1)
            while True:
                if ctx.get(port.valid):
                    bits = ctx.get(port.payload.as_value())
                    words = [bits >> 32 * i & 0xFFFFFFFF for i in range(16)]
                    words[0] = words[0] & ~0xFF | Opcode[unit.name]
                    self.issued.append((unit, decode(words)[1]))
                    self.unfinished[unit] += 1
                    self.at_issue.append(dict(self.unfinished))
                    await ctx.tick()
                    ctx.set(port.ready, 0)
                    for _ in range(rng.randrange(1, self.unit_time)):
                        await ctx.tick()
                    if self.unit_error == (unit, len([u for u, _ in self.issued if u == unit])):
                        ctx.set(status.error, 1)
                        ctx.set(status.code, ErrorCode.SCRATCHPAD_RANGE)
                        await ctx.tick()
                        ctx.set(status.error, 0)
                    while self.hang == unit:
                        await ctx.tick()
                    self.memory[2][0] += unit == Unit.STORE
                    ctx.set(status.done, 1)
                    await ctx.tick()
                    ctx.set(status.done, 0)
                    self.unfinished[unit] -= 1
                    ctx.set(port.ready, 1)
                else:
                    await ctx.tick()
        return process

    async def main_process(self, ctx):
        dut = self.dut
        ctx.set(dut.watchdog, self.watchdog)
        ctx.set(dut.arguments, sum(value << 32 * i for i, value in enumerate(self.arguments)))
        await self.run_program(ctx, self.start, False)
        self.bus_error_at = None
        for keep, start, command in self.again:
            if command:
                words = b"".join(word.to_bytes(4, "little") for word in command)
                self.memory[0] = self.memory[0][:64] + words + self.memory[0][128:]
            self.issued.append((None, {}))
            await self.run_program(ctx, start, keep)

    async def run_program(self, ctx, start, keep):
        dut = self.dut
        self.fetched.append(0)
        ctx.set(dut.program, start)
        ctx.set(dut.keep, keep)
        ctx.set(dut.start, 1)
        await ctx.tick()
        ctx.set(dut.start, 0)
        for _ in range(20_000):
            finished, failed, abort = ctx.get(dut.finished), ctx.get(dut.failed), ctx.get(dut.abort)
            assert not (failed and not self.quiet), "failed before the bus was quiet"
            assert not (finished and abort)
            if finished or failed:
                self.result = ("finished" if finished else "failed", ErrorCode(ctx.get(dut.error_code)),
                               ctx.get(dut.error_address))
                await ctx.tick()
                assert not ctx.get(dut.busy)
                return
            assert ctx.get(dut.busy)
            await ctx.tick()
        raise AssertionError("the program did not end")

    def run(self):
        simulator = Simulator(self.dut)
        simulator.add_clock(1e-8)
        simulator.add_process(self.watch_requests)
        simulator.add_testbench(self.memory_process, background=True)
        for unit in Unit:
            simulator.add_testbench(self.unit_process(unit), background=True)
        simulator.add_testbench(self.main_process)
        simulator.run()
        return self


def scalar(op, rd, rs, immediate=0, rt=0):
    return encode(Opcode.SCALAR, op=op, rd=rd, rs=rs, rt=rt, immediate=immediate & 0xFFFFFFFF)


def show(register):
    """A command that carries a register's value out: patched into a full word."""
    return encode(Opcode.LOAD, patch0_word=3, patch0_register=register)


END = encode(Opcode.END)


@pytest.mark.parametrize("width", [32, 64, 128, 512])
def test_commands_reach_their_units_unchanged(width):
    program = [encode(opcode, **{"rows": 7 + i} if opcode != Opcode.STREAM else {"k": 7 + i})
               for i, opcode in enumerate(list(UNITS) * 5)]
    bench = Bench([*program, END], width=width).run()
    assert bench.result[:2] == ("finished", ErrorCode.NONE)
    for opcode, unit in UNITS.items():
        got = [fields for u, fields in bench.issued if u == unit]
        name = "k" if opcode == Opcode.STREAM else "rows"
        assert [fields[name] for fields in got] == [7 + i for i, o in enumerate(list(UNITS) * 5) if o == opcode]


def test_waits_hold_a_command_back_until_enough_have_finished():
    program = [encode(Opcode.VECTOR, n=1, rows=1)] * 6 + [encode(Opcode.MATMUL, k=1, wait_vector=2)] + \
        [encode(Opcode.STORE, wait_vector=0, wait_matmul=0)]
    bench = Bench([*program, END], unit_time=200).run()
    order = [unit for unit, _ in bench.issued]
    assert order.index(Unit.MATMUL) >= 4, "at most two vector commands may be unfinished"
    assert bench.at_issue[order.index(Unit.STORE)] == dict.fromkeys(Unit, 0) | {Unit.STORE: 1}


def test_scalar_operations():
    a, b = 0xFFFF_FFF3, 37
    program = [
        scalar(ScalarOp.ADD, 9, 1, rt=2), show(9), scalar(ScalarOp.SUB, 9, 1, rt=2), show(9),
        scalar(ScalarOp.MUL, 9, 1, rt=2), show(9), scalar(ScalarOp.AND, 9, 1, 0xFF), show(9),
        scalar(ScalarOp.SHR, 9, 1, 4), show(9), scalar(ScalarOp.SHL, 9, 1, 5), show(9),
        scalar(ScalarOp.MIN, 9, 1, rt=2), show(9), scalar(ScalarOp.ADD, 0, 1, 1), show(0),
        scalar(ScalarOp.SHR, 9, 1, 0), show(9), scalar(ScalarOp.SHL, 9, 1, 32), show(9),
    ]
    bench = Bench([*program, END], arguments=(a, b)).run()
    mask = 0xFFFFFFFF
    expected = [a + b & mask, a - b, a * b & mask, a & 0xFF, a >> 4, a << 5 & mask, b, 0, a, 0]
    assert [fields["offset"] for _, fields in bench.issued] == expected


def test_loops_nest_and_patches_add_registers():
    body = encode(Opcode.VECTOR, n=5, a=100, a_stride=1, patch0_word=3, patch0_register=3, patch1_word=6,
                  patch1_register=4, patch2_word=6, patch2_register=5, patch3_word=12, patch3_register=4)
    program = [
        scalar(ScalarOp.ADD, 9, 0, 2),                     # outer count
        scalar(ScalarOp.ADD, 10, 0, 3),                    # inner count
        body, scalar(ScalarOp.ADD, 4, 4, 10),
        encode(Opcode.BRANCH, condition=Condition.LOOP, rs=10, distance=-2 & 0xFFFFFFFF),
        encode(Opcode.BRANCH, condition=Condition.LOOP, rs=9, distance=-4 & 0xFFFFFFFF),
        encode(Opcode.BRANCH, condition=Condition.ALWAYS, distance=2), encode(Opcode.STORE),
        encode(Opcode.BRANCH, condition=Condition.ZERO, rs=3, distance=2), encode(Opcode.MATMUL, k=1),
        encode(Opcode.BRANCH, condition=Condition.NONZERO, rs=0, distance=2), encode(Opcode.MATMUL, k=2),
    ]
    bench = Bench([*program, END], arguments=(0, 0, 7, 0, 1000)).run()
    vectors = [f for u, f in bench.issued if u == Unit.VECTOR]
    assert [(f["n"], f["a"], f["a_stride"], f["result"]) for f in vectors] == [
        (12, 1100 + 10 * i, 1, 10 * i) for i in range(6)]
    assert [(u, f["k"]) for u, f in bench.issued if u != Unit.VECTOR] == [(Unit.MATMUL, 1), (Unit.MATMUL, 2)]


def read(rd, offset, rs=0, rt=0, region=2, **waits):
    return encode(Opcode.SCALAR, op=ScalarOp.READ, rd=rd, rs=rs, rt=rt, region=region, immediate=offset & 0xFFFFFFFF,
                  **waits)


@pytest.mark.parametrize("width", [32, 64, 512])
def test_read_fetches_the_word_among_jumps_and_prefetch(width):
    """Words of region 2 and of the program itself, in a loop, with what is read ahead in vain behind each jump."""
    data = random.Random(SEED).randbytes(256)
    program = [
        scalar(ScalarOp.ADD, 10, 0, 3),
        read(9, 1, rs=10, rt=11), scalar(ScalarOp.ADD, 11, 11, 61), show(9),  # 1 + 3, 1 + 2 + 61, 1 + 1 + 122
        encode(Opcode.BRANCH, condition=Condition.ALWAYS, distance=2), [0] * 16,
        read(12, 252), read(0, 8), show(12), show(0),
        encode(Opcode.BRANCH, condition=Condition.LOOP, rs=10, distance=-9 & 0xFFFFFFFF),
        read(9, 64 + 12, region=0), show(9),
    ]
    bench = Bench([*program, END], width=width, data=data).run()
    assert bench.result[:2] == ("finished", ErrorCode.NONE)

    def word(at):
        return int.from_bytes(data[at:at + 4], "little")

    expected = [value for at in (4, 64, 124) for value in (word(at), word(252), 0)]
    assert [fields["offset"] for _, fields in bench.issued] == [*expected, program[0][3]]


@pytest.mark.parametrize("count", range(3))
def test_read_waits_for_stores(count):
    program = [*[encode(Opcode.STORE)] * 4, read(9, 0, wait_store=count), show(9)]
    bench = Bench([*program, END], unit_time=300).run()
    stored = next(fields["offset"] for unit, fields in bench.issued if unit == Unit.LOAD)
    assert stored >= 4 - count and (count or stored == 4)


@pytest.mark.parametrize("offset, region, bus_error_at, code", [
    (2, 2, None, ErrorCode.BAD_FIELD), (64, 2, None, ErrorCode.READ_RANGE), (-4, 2, None, ErrorCode.READ_RANGE),
    (0, 7, None, ErrorCode.READ_RANGE), (20, 2, (2, 16), ErrorCode.READ_RESPONSE),
])
def test_read_errors(offset, region, bus_error_at, code):
    bench = Bench([encode(Opcode.LOAD), read(9, offset, region=region), show(9), END], bus_error_at=bus_error_at)
    assert bench.run().result == ("failed", code, 128)


@pytest.mark.parametrize("opcode", [0, 9, 255])
def test_bad_opcode(opcode):
    bad = [opcode] + [0] * 15
    bench = Bench([encode(Opcode.LOAD), bad, END]).run()
    assert bench.result == ("failed", ErrorCode.BAD_OPCODE, 128)


def test_bad_scalar_operation():
    bench = Bench([scalar(15, 1, 1), END]).run()
    assert bench.result == ("failed", ErrorCode.BAD_FIELD, 64)


def test_program_outside_its_region():
    bench = Bench([encode(Opcode.LOAD)] * 3, region_bytes=64 * 4).run()
    assert bench.result == ("failed", ErrorCode.READ_RANGE, 64 * 4)


def test_bus_error_in_the_program_counts_only_where_it_is_reached():
    program = [encode(Opcode.LOAD), END, encode(Opcode.LOAD)]
    assert Bench(program, bus_error_at=(0, 64 * 3 + 8)).run().result[0] == "finished"
    assert Bench(program, bus_error_at=(0, 64 * 2)).run().result == ("failed", ErrorCode.READ_RESPONSE, 128)


def test_unit_error_names_the_command_that_failed():
    program = [encode(Opcode.VECTOR, n=1), encode(Opcode.LOAD), encode(Opcode.VECTOR, n=2),
               *[encode(Opcode.STORE)] * 8]
    bench = Bench([*program, END], unit_error=(Unit.VECTOR, 2)).run()
    assert bench.result == ("failed", ErrorCode.SCRATCHPAD_RANGE, 64 * 3)


def test_watchdog():
    bench = Bench([encode(Opcode.VECTOR), END], hang=Unit.VECTOR, watchdog=500).run()
    assert bench.result == ("failed", ErrorCode.WATCHDOG, 128)


def numbered(count):
    """Commands that can be told apart, of every kind of unit."""
    opcodes = list(UNITS)
    return [encode(opcodes[i % 5], **{"k" if opcodes[i % 5] == Opcode.STREAM else "rows": 1 + i}) for i in range(count)]


def numbers(bench):
    """What each run issued, by the numbers of ``numbered``."""
    runs = [[]]
    for issued in bench.issued:
        if issued[0] is None:
            runs.append([])
        else:
            runs[-1].append(issued[1]["k" if issued[0] == Unit.STREAM else "rows"])
    return [sorted(run) for run in runs]


@pytest.mark.parametrize("width", [32, 64, 128, 512])
@pytest.mark.parametrize("commands, count", [
    (32, 7), (32, 22), (32, 23), (32, 24), (32, 25), (32, 40), (24, 15), (24, 20), (8, 12)])
def test_kept_commands_are_not_read_again(width, commands, count):
    """Run, again with and without ``keep``, from an offset within; what is behind the kept ones comes from memory."""
    program, kept = [*numbered(count), END], min(count + 1, commands - 8)
    bench = Bench(program, width=width, commands=commands,
                  again=[(True, 64, None), (True, 64 * 4, None), (False, 64, None), (True, 64, None)]).run()
    everything = list(range(1, count + 1))
    assert bench.result[0] == "finished"
    assert numbers(bench) == [everything, everything, everything[3:], everything, everything]
    whole = 64 * (count + 1)
    for fetched, first in zip(bench.fetched, (0, kept, max(kept, 3), 0, kept), strict=True):
        assert whole - 64 * first <= fetched <= whole - 64 * first + 64 * 8, bench.fetched
    if whole + 64 * 8 <= 64 * (commands - 8):
        assert max(bench.fetched[1], bench.fetched[4]) <= 64, "END alone may have been left on its way"


def test_only_keep_keeps():
    """A command changed in memory is seen without ``keep``, not with it."""
    changed = encode(Opcode.STREAM, k=99)
    bench = Bench([*numbered(5), END], commands=32,
                  again=[(True, 64, changed), (False, 64, None), (True, 64, numbered(1)[0])]).run()
    assert [run[-1] for run in numbers(bench)] == [5, 5, 99, 99]


def branchy(rng, count):
    """A program of numbered commands with loops and with branches that argument 1 makes go or not."""
    program, loop = [], None
    for command in numbered(count):
        kind = rng.random()
        if loop is None and kind < 0.12:
            loop = len(program) + 1
            program.append(scalar(ScalarOp.ADD, 9, 0, rng.randrange(1, 4)))
        elif loop is not None and kind < 0.25:
            program.append(encode(Opcode.BRANCH, condition=Condition.LOOP, rs=9,
                                  distance=loop - len(program) & 0xFFFFFFFF))
            loop = None
        elif kind > 0.9 and loop is None:
            condition = rng.choice([Condition.ZERO, Condition.NONZERO])
            program.append(encode(Opcode.BRANCH, condition=condition, rs=1, distance=rng.randrange(1, 5)))
            program += [encode(Opcode.LOAD, rows=1000 + i) for i in range(4)]
        program.append(command)
    return [*program, END]


def walk(program, at, argument):
    """The numbers that the program issues from command ``at`` on."""
    found, count = [], None
    while True:
        opcode, fields = decode(program[at])
        if opcode == Opcode.END:
            return sorted(found)
        step = 1
        if opcode == Opcode.SCALAR:
            count = fields["immediate"]
        elif opcode == Opcode.BRANCH:
            count = count - 1 if fields["condition"] == Condition.LOOP else count
            taken = {Condition.LOOP: count != 0, Condition.ZERO: argument == 0, Condition.NONZERO: argument != 0}
            step = (fields["distance"] ^ 1 << 31) - (1 << 31) if taken[fields["condition"]] else 1
        else:
            found.append(fields["k" if opcode == Opcode.STREAM else "rows"])
        at += step


@pytest.mark.parametrize("width", [32, 128, 512])
@pytest.mark.parametrize("seed", range(6))
def test_runs_of_branchy_programs(width, seed):
    """Runs from several offsets, kept or not, one right behind the other, on a memory with and without stalls."""
    rng = random.Random(seed)
    program = branchy(rng, rng.choice([12, 30, 60]))
    inside = [i for i, command in enumerate(program[:12]) if decode(command)[0] == Opcode.SCALAR]
    starts = [0, 0, *inside]
    again = [(rng.random() < 0.7, 64 + 64 * rng.choice(starts), None) for _ in range(6)]
    argument = rng.randrange(2)
    bench = Bench(program, width=width, commands=rng.choice([16, 24, 32, 64]), arguments=(argument,), again=again,
                  stall=rng.choice([0, 0.3, 0.8]), unit_time=rng.choice([2, 20])).run()
    assert bench.result[0] == "finished"
    assert numbers(bench) == [walk(program, start // 64 - 1, argument) for _, start, _ in [(0, 64, 0), *again]]


def test_what_one_run_leaves_out_the_next_adds():
    """In the first run the branch goes, since the STORE at its target is still to come; the third reads nothing."""
    program = [read(9, 0), encode(Opcode.BRANCH, condition=Condition.ZERO, rs=9, distance=19), *numbered(18),
               encode(Opcode.STORE, rows=19), END]
    bench = Bench(program, commands=64, again=[(True, 64, None)] * 3).run()
    assert numbers(bench) == [[19], *[list(range(1, 20))] * 3]
    assert 64 * 8 < bench.fetched[1] < 64 * 22 and max(bench.fetched[2:]) <= 64, bench.fetched


def test_forget_begins_anew():
    """Another program's commands are not taken for those kept before."""
    again = [(False, 64 * 9, None), (True, 64 * 9, None), (True, 64, None)]
    bench = Bench([*numbered(20), END], commands=32, again=again).run()
    assert numbers(bench) == [list(range(first, 21)) for first in (1, 9, 9, 1)]


def test_nothing_is_kept_behind_an_error():
    program = [*numbered(6), [0] * 16, END]
    bench = Bench(program, commands=32, again=[(True, 64, numbered(8)[7])]).run()
    assert bench.result == ("failed", ErrorCode.BAD_OPCODE, 64 * 7)
    assert numbers(bench)[1][-1] == 8 and bench.fetched[1] >= 64 * 7


def test_a_bus_error_is_not_kept():
    """What was read ahead in vain with an error is read again when it is wanted."""
    program = [encode(Opcode.BRANCH, condition=Condition.ALWAYS, distance=5), *numbered(6), END]
    bench = Bench(program, commands=32, bus_error_at=(0, 64 * 4 + 8), again=[(True, 64 * 3, None)]).run()
    assert bench.result[0] == "finished"
    assert numbers(bench) == [[5, 6], [2, 3, 4, 5, 6]]

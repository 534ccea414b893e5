"""The accelerator without sequencer, vector unit, LOAD and STORE: the host issues each command and moves all data."""

from amaranth.hdl import Module, Mux, ResetInserter, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from ..config import FORMATS
from ..csr import AxiLite, CsrBank
from ..matmul.engine import MatmulEngine
from ..ports import AxiRead, AxiWrite, RamPort
from ..registers import CSR_ADDRESS_WIDTH, IDENTITY, VERSION
from .registers import DIRECT_MAP, DIRECT_UNITS, command_offset
from .weights import WeightStream
from .window import AxiWindow

__all__ = ["DirectAccelerator", "WIDTH", "ADDRESS_WIDTH", "WEIGHTS", "SCRATCHPAD", "ACTIVATIONS", "CODES",
           "WINDOW_BYTES"]

WIDTH = 32
ADDRESS_WIDTH = 18
WEIGHTS, SCRATCHPAD, ACTIVATIONS, CODES = 0x0_0000, 0x1_0000, 0x2_0000, 0x3_0000
"""Where in the window what begins: memory of the weights, results, activations and their scale codes (a word each, of
which the low byte counts). The last two can only be written."""
WINDOW_BYTES = 0x4_0000


class DirectAccelerator(wiring.Component):
    """The matmul engine of ``Accelerator``, with INT8 weights in a RAM of their own and results in another,
    both with a single port. The host reads and writes all of them through a window, and issues STREAM and MATMUL
    commands by registers (``registers.DIRECT_MAP``); any number of rows is multiplied, one a cycle.

    A command waits in its register until its unit takes it; ``status.busy`` is high while any is unfinished. The
    interrupt comes when the last one has ended, and with an error, after which the units stand still until
    ``control.abort``; ``error_address`` is the offset of the failed command's words in the register map. Activations
    must not be written while a MATMUL that reads them is unfinished.

    Parameters
    ----------
    config : AcceleratorConfig    with ``vector_lanes`` = 0

    Members
    -------
    registers : In(AxiLite), read : In(AxiRead), write : In(AxiWrite)   read and write are the window, before the units
    weights, scratchpad : Out(RamPort)
    irq : Out(1)
    """

    def __init__(self, config):
        if config.vector_lanes:
            raise ValueError(f"vector_lanes must be 0, not {config.vector_lanes!r}")
        self._config = config
        self._depth = config.scratchpad_groups
        sizes = {"address_width": ADDRESS_WIDTH, "width": WIDTH}
        super().__init__({
            "registers": In(AxiLite(address_width=CSR_ADDRESS_WIDTH)),
            "read": In(AxiRead(**sizes)), "write": In(AxiWrite(**sizes)),
            "weights": Out(RamPort(depth=self._depth, width=WIDTH)),
            "scratchpad": Out(RamPort(depth=self._depth, width=WIDTH)),
            "irq": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        config = self._config
        m.submodules.csr = csr = CsrBank(constants=self._constants(), registers=DIRECT_MAP)
        wiring.connect(m, csr.bus, wiring.flipped(self.registers))
        stopped = Signal()      # by an error, or for a cycle by the host
        reset = ResetInserter(stopped)
        engine = MatmulEngine(
            formats=config.formats, rows=config.rows, fp16_rows=0, lanes=config.lanes, width=WIDTH,
            accumulate_lanes=config.accumulate_lanes, activation_depth=config.activation_depth, group_words=1,
            vector_lanes=1, pe_dsps=config.pe_dsps, compact=True)
        reader = WeightStream(depth=self._depth)
        m.submodules.matmul, m.submodules.reader = reset(engine), reset(reader)
        wiring.connect(m, engine.weights, reader.weights)
        m.d.comb += reader.scale_held.eq(engine.scale_held)
        self._build_window(m, reader, engine)
        self._build_commands(m, csr, dict(zip(DIRECT_UNITS, (reader, engine), strict=True)), stopped)
        return m

    def _constants(self):
        config = self._config
        return {
            "identity_value": IDENTITY, "version_value": VERSION, "config_hash_value": int(config.sha256[:8], 16),
            "config_array_rows": config.rows, "config_array_lanes": config.lanes,
            "config_array_bus_bytes": config.bus_bytes, "config_array_vector_lanes": 0,
            **{f"config_formats_{name}": name in config.formats for name in FORMATS},
            "config_formats_fp16_rows": 0,
            **{f"config_buffers_{name}_log2": value.bit_length() - 1 for name, value in (
                ("scratchpad", config.scratchpad_bytes), ("activation", config.activation_depth),
                ("prefetch", config.prefetch_beats))},
            "config_buffers_address_width": ADDRESS_WIDTH,
        }

    def _build_window(self, m, reader, engine):
        """The host goes before the units: it comes once in many cycles."""
        m.submodules.window = window = AxiWindow(address_width=ADDRESS_WIDTH, width=WIDTH)
        wiring.connect(m, window.read, wiring.flipped(self.read))
        wiring.connect(m, window.write, wiring.flipped(self.write))
        weights, scratchpad, activation = self.weights, self.scratchpad, engine.activation
        part, word = window.address[-2:], window.address[:-2]
        to_weights, to_scratchpad, from_scratchpad = Signal(), Signal(), Signal()
        m.d.comb += [
            to_weights.eq(window.valid & (part == WEIGHTS >> 16)),
            to_scratchpad.eq(window.valid & (part == SCRATCHPAD >> 16)), window.ready.eq(1),
            weights.enable.eq(to_weights | reader.enable),
            weights.address.eq(Mux(to_weights, word, reader.address)), weights.data.eq(window.data),
            weights.strobe.eq(Mux(to_weights, window.strobe, 0)),
            reader.grant.eq(~to_weights), reader.value.eq(weights.value),
            scratchpad.enable.eq(to_scratchpad | engine.write.valid),
            scratchpad.address.eq(Mux(to_scratchpad, word, engine.write.address)),
            scratchpad.data.eq(Mux(to_scratchpad, window.data, engine.write.data)),
            scratchpad.strobe.eq(Mux(to_scratchpad, window.strobe,
                                     engine.write.mask.replicate(4) & (~engine.write.fault).replicate(4))),
            engine.write.ready.eq(~to_scratchpad),
            engine.write.fault.eq(engine.write.address >= self._depth),
            window.value.eq(Mux(from_scratchpad, scratchpad.value, weights.value)),
        ]
        m.d.sync += from_scratchpad.eq(to_scratchpad)
        self._build_activations(m, window, activation, part, word)

    def _build_activations(self, m, window, activation, part, word):
        writes = window.valid & (window.strobe != 0)
        m.d.comb += [
            activation.valid.eq(writes & (part == ACTIVATIONS >> 16)), activation.index.eq(word),
            activation.data.eq(window.data), activation.mask.eq(1),
            activation.scale_valid.eq(writes & (part == CODES >> 16)), activation.scale_block.eq(word),
            activation.scale_code.eq(window.data),
            window.fault.eq(activation.fault | (part[1] & (window.strobe == 0)) | (
                (~part[1]) & (word >= self._depth))),
        ]

    def _build_commands(self, m, csr, units, stopped):
        """A valid bit for each unit's registers, the number of its unfinished commands, and the first error."""
        failed, pending, busy, was_busy = Signal(), Signal(), Signal(), Signal()
        unfinished = []
        for unit, block in units.items():
            name, command = unit.name.lower(), block.command.payload
            for register in (register for register in DIRECT_MAP.values() if register.name.startswith(f"{name}_word")):
                m.d.comb += [command[field.name].eq(getattr(csr, f"{register.name}_{field.name}"))
                             for field in register.fields]
            # Of those taken, no more than two or three: the next one waits for room in the unit.
            count = Signal(4, name=f"unfinished_{name}")
            issue = Signal(name=f"issue_{name}")
            m.d.comb += issue.eq(getattr(csr, f"control_{name}") & ~block.command.valid & ~failed)
            m.d.sync += count.eq(count + issue - block.status.done)
            with m.If(block.command.ready):
                m.d.sync += block.command.valid.eq(0)
            with m.If(issue):
                m.d.sync += block.command.valid.eq(1)
            with m.If(stopped):
                m.d.sync += [count.eq(0), block.command.valid.eq(0)]
            unfinished.append(count != 0)
        m.d.comb += [busy.eq(unfinished[0] | unfinished[1]), stopped.eq(failed | csr.control_abort)]
        m.d.sync += was_busy.eq(busy)
        with m.If(csr.control_clear_interrupt):
            m.d.sync += pending.eq(0)
        with m.If(was_busy & ~busy):
            m.d.sync += pending.eq(1)
        self._build_errors(m, csr, units, failed)
        m.d.comb += [
            csr.status_busy.eq(busy), csr.status_done.eq(~busy & ~failed), csr.status_error.eq(failed),
            csr.status_interrupt.eq(pending), self.irq.eq(pending),
        ]

    def _build_errors(self, m, csr, units, failed):
        for unit, block in units.items():
            with m.If(block.status.error & ~failed):
                m.d.sync += [failed.eq(1), csr.error_code_code.eq(block.status.code),
                             csr.error_address_value.eq(command_offset(unit))]
        with m.If(csr.control_abort):
            m.d.sync += [failed.eq(0), csr.error_code_code.eq(0), csr.error_address_value.eq(0)]

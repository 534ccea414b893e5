"""The whole accelerator; the only module that sees the configuration."""

from amaranth.hdl import Cat, Module, ResetInserter, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from .commands import Unit
from .config import FORMATS
from .counters import Counters
from .csr import AxiLite, CsrBank
from .matmul.engine import MatmulEngine
from .memory.load import Load
from .memory.prefetch import Prefetch
from .memory.read_port import ReadPort
from .memory.scratchpad import Scratchpad
from .memory.store import Store
from .ports import AxiRead, AxiWrite, join_flat, region_layout
from .registers import ARGUMENTS, COUNTERS, CSR_ADDRESS_WIDTH, IDENTITY, REGIONS, VERSION
from .sequencer.sequencer import Sequencer
from .vector.unit import VectorUnit

__all__ = ["Accelerator"]

READS_OUTSTANDING = 8
BURST_INCR = 0b01
CACHE_MODIFIABLE_BUFFERABLE = 0b0011


def _log2(value):
    return value.bit_length() - 1


def _flat(prefix, signature, direction):
    """Members of ``signature`` as flat ports ``prefix_name``; ``direction`` as the nested member would have."""
    flip = direction == In
    return {f"{prefix}_{name}": (Out if (member.flow == Out) != flip else In)(member.shape)
            for name, member in signature.members.items()}


class Accelerator(wiring.Component):
    """Tilewright's accelerator: AXI4-Lite registers, one AXI4 memory port, an interrupt.

    Ports are flat and keep their names: ``s_axil_*``, ``m_axi_*`` (one ID, INCR bursts of whole beats), ``irq``, and
    ``trace_*``, which may stay open: ``busy`` (a program runs), ``command`` (the sequencer has the command at the
    offset ``address`` in work), ``waiting`` (it is held back); ``begin`` and ``done`` have a bit for each ``Unit`` and
    pulse when a command is first offered to it and when it has ended.

    Parameters
    ----------
    config : AcceleratorConfig
    tables : tuple of FunctionTable    one for each of ``config.functions``, in that order
    """

    def __init__(self, config, tables):
        if tuple(table.name for table in tables) != config.functions:
            raise ValueError(f"tables = {[table.name for table in tables]}: must be those of functions = "
                             f"{list(config.functions)}, in that order")
        self._config = config
        self._tables = tables
        sizes = {"address_width": config.address_width, "width": config.bus_width}
        size_bits = {"size": Out(3), "burst": Out(2), "cache": Out(4), "prot": Out(3), "id": Out(1)}
        super().__init__({
            **_flat("s_axil", AxiLite(address_width=CSR_ADDRESS_WIDTH), In),
            **_flat("m_axi", AxiRead(**sizes), Out),
            **_flat("m_axi", AxiWrite(**sizes), Out),
            **{f"m_axi_{channel}{name}": member for channel in ("ar", "aw") for name, member in size_bits.items()},
            "m_axi_rid": In(1), "m_axi_bid": In(1),
            "irq": Out(1),
            "trace_busy": Out(1), "trace_command": Out(1), "trace_waiting": Out(1), "trace_address": Out(32),
            "trace_begin": Out(len(Unit)), "trace_done": Out(len(Unit)),
        })

    def elaborate(self, platform):
        m = Module()
        config = self._config
        m.submodules.csr = csr = CsrBank(constants=self._constants())
        m.submodules.counters = counters = Counters()
        m.submodules.sequencer = sequencer = Sequencer(width=config.bus_width,
                                                         commands=config.program_commands)
        # Of the units, and of the read port: a cycle late at both ends, since it goes everywhere; no program begins so
        # soon.
        abort = Signal()
        m.d.sync += abort.eq(sequencer.abort)
        reset = ResetInserter(abort)
        engine = MatmulEngine(
            formats=config.formats, rows=config.rows, fp16_rows=config.fp16_rows, lanes=config.lanes,
            width=config.bus_width, accumulate_lanes=config.accumulate_lanes, activation_depth=config.activation_depth,
            group_words=config.group_words, vector_lanes=config.vector_lanes, pe_dsps=config.pe_dsps)
        vector = VectorUnit(
            lanes=config.vector_lanes, group_words=config.group_words, tables=self._tables,
            formats=config.formats, activation_rows=config.rows, fp16_rows=config.fp16_rows,
            max_row=config.max_head_dim)
        prefetch = Prefetch(width=config.bus_width, lanes=config.lanes, beats=config.prefetch_beats,
                            burst_beats=config.burst_beats, int4="int4" in config.formats)
        load = Load(group_words=config.group_words, burst_beats=config.burst_beats)
        store = Store(address_width=config.address_width, group_words=config.group_words,
                      burst_beats=config.burst_beats)
        read_port = ReadPort(requestors=3, address_width=config.address_width, width=config.bus_width,
                             outstanding=READS_OUTSTANDING)
        scratchpad = Scratchpad(groups=config.scratchpad_groups, width=config.bus_width)
        m.submodules.matmul = reset(engine)
        m.submodules.vector = reset(vector)
        m.submodules.prefetch = reset(prefetch)
        m.submodules.load = reset(load)
        m.submodules.store = store
        m.submodules.read_port = read_port
        m.submodules.scratchpad = reset(scratchpad)

        units = {Unit.STREAM: prefetch, Unit.MATMUL: engine, Unit.VECTOR: vector, Unit.LOAD: load, Unit.STORE: store}
        for unit, block in units.items():
            name = unit.name.lower()
            wiring.connect(m, getattr(sequencer, name), block.command)
            # Errors a cycle late: no unit ends a command that has failed, so ``done`` does not overtake them.
            status = getattr(sequencer, f"status_{name}")
            m.d.comb += status.done.eq(block.status.done)
            m.d.sync += [status.error.eq(block.status.error), status.code.eq(block.status.code)]
        for requestor, port in zip((sequencer.read, load.read, prefetch.read), read_port.requests, strict=True):
            wiring.connect(m, requestor, port)
        for reader, port in zip((vector.read, store.read), scratchpad.readers, strict=True):
            wiring.connect(m, reader, port)
        for writer, port in zip((vector.write, engine.write, load.write), scratchpad.writers, strict=True):
            wiring.connect(m, writer, port)
        wiring.connect(m, vector.activation, engine.activation)
        wiring.connect(m, engine.weights, prefetch.weights)
        self._build_bus(m, read_port.axi, store.axi)
        self._build_registers(m, csr, sequencer, read_port, store)
        m.d.comb += [
            sequencer.bus_idle.eq(read_port.idle & store.idle),
            read_port.abort.eq(abort), store.abort.eq(sequencer.abort),
            sequencer.progress.eq(read_port.beat | store.beat | engine.took_beat),
            counters.clear.eq(sequencer.start & ~sequencer.busy),
            counters.cycles.eq(sequencer.busy), counters.matmul_busy.eq(engine.took_beat),
            counters.vector_busy.eq(vector.busy), counters.read_beats.eq(read_port.beat),
            counters.write_beats.eq(store.beat), counters.stall_weights.eq(engine.stall_weights),
            counters.stall_drain.eq(engine.stall_drain), counters.stall_read.eq(read_port.stalled),
            counters.stall_issue.eq(sequencer.waiting), counters.prefetch_full.eq(prefetch.full),
        ]
        m.d.comb += [
            self.trace_busy.eq(sequencer.busy), self.trace_command.eq(sequencer.in_work),
            self.trace_waiting.eq(sequencer.waiting), self.trace_address.eq(sequencer.address),
            self.trace_begin.eq(sequencer.began), self.trace_done.eq(Cat(units[unit].status.done for unit in Unit)),
        ]
        for name, _ in COUNTERS:
            count = getattr(counters, f"count_{name}")
            m.d.comb += [getattr(csr, f"count_{name}_low_value").eq(count),
                         getattr(csr, f"count_{name}_high_value").eq(count[32:])]
        return m

    def _constants(self):
        config = self._config
        return {
            "identity_value": IDENTITY, "version_value": VERSION, "config_hash_value": int(config.sha256[:8], 16),
            "config_array_rows": config.rows, "config_array_lanes": config.lanes,
            "config_array_bus_bytes": config.bus_bytes, "config_array_vector_lanes": config.vector_lanes,
            **{f"config_formats_{name}": name in config.formats for name in FORMATS},
            "config_formats_fp16_rows": config.fp16_rows,
            "config_buffers_scratchpad_log2": _log2(config.scratchpad_bytes),
            "config_buffers_activation_log2": _log2(config.activation_depth),
            "config_buffers_prefetch_log2": _log2(config.prefetch_beats),
            "config_buffers_address_width": config.address_width,
        }

    def _build_bus(self, m, read, write):
        """The memory port, with the attributes that never change."""
        join_flat(m, self, "m_axi", read)
        join_flat(m, self, "m_axi", write)
        for channel in ("ar", "aw"):
            m.d.comb += [
                getattr(self, f"m_axi_{channel}size").eq(_log2(self._config.bus_bytes)),
                getattr(self, f"m_axi_{channel}burst").eq(BURST_INCR),
                getattr(self, f"m_axi_{channel}cache").eq(CACHE_MODIFIABLE_BUFFERABLE),
            ]

    def _build_registers(self, m, csr, sequencer, read_port, store):
        join_flat(m, self, "s_axil", csr.bus)
        regions = Signal(region_layout(self._config.address_width))
        for i in range(REGIONS):
            low, high = getattr(csr, f"region{i}_base_low_value"), getattr(csr, f"region{i}_base_high_value")
            m.d.comb += [
                regions[i].base.eq(Cat(low, high)), regions[i].size.eq(getattr(csr, f"region{i}_size_value")),
                regions[i].writable.eq(csr.writable_mask[i]),
            ]
        arguments = Cat(getattr(csr, f"argument{i}_value") for i in range(ARGUMENTS))
        done, error, pending = Signal(), Signal(), Signal()
        start, begin, keep, stop = Signal(), Signal(), Signal(), Signal()
        m.d.sync += [begin.eq(csr.control_start), keep.eq(csr.control_keep), stop.eq(csr.control_abort)]
        m.d.comb += [
            read_port.regions.eq(regions), store.regions.eq(regions),
            start.eq(begin & ~sequencer.busy),
            sequencer.start.eq(start), sequencer.keep.eq(keep), sequencer.stop.eq(stop),
            sequencer.program.eq(csr.program_value), sequencer.arguments.eq(arguments),
            sequencer.watchdog.eq(csr.watchdog_value),
            csr.status_busy.eq(sequencer.busy), csr.status_done.eq(done), csr.status_error.eq(error),
            csr.status_interrupt.eq(pending),
            csr.error_code_code.eq(sequencer.error_code), csr.error_address_value.eq(sequencer.error_address),
            self.irq.eq(pending & csr.interrupt_enable_enable),
        ]
        with m.If(csr.control_clear_interrupt):
            m.d.sync += pending.eq(0)
        with m.If(start):
            m.d.sync += [done.eq(0), error.eq(0), pending.eq(0)]
        with m.If(sequencer.finished):
            m.d.sync += [done.eq(1), pending.eq(1)]
        with m.If(sequencer.failed):
            m.d.sync += [error.eq(1), pending.eq(1)]

"""The report: figures of a trace small enough to count by hand, the page, and files that are none."""

import json
import re
import xml.etree.ElementTree as ElementTree
from dataclasses import asdict
from functools import partial
from html.parser import HTMLParser

import numpy as np
import pytest

from tilewright.gen.compiler.assembler import Label
from tilewright.gen.configuration import load_preset
from tilewright.gen.errors import UserError
from tilewright.hw.commands import Unit
from tilewright.hw.registers import COUNTERS
from tilewright.sim.report import ORDER, START, Trace, read_trace
from tilewright.sim.report_page import page
from tilewright.sim.trace import SEQUENCER, Event, Span, Timeline
from tilewright.sim.workload import Work

TITLE = "a <model> & $x$"
LABELS = {offset: Label(opcode, text) for offset, opcode, text in (
    (0, "STREAM", "layer 0/projections"), (64, "LOAD", "embedding"), (128, "MATMUL", "layer 0/projections"),
    (192, "VECTOR", "layer 0/attention"), (256, "STORE", "lm_head"), (320, "END", ""))}
EVENTS = (  # track, offset, begin, end behind the run's begin, work
    (SEQUENCER, 0, 2, 4, None), (SEQUENCER, 64, 4, 6, None), (SEQUENCER, 128, 6, 8, None),
    (SEQUENCER, 192, 20, 22, None), (SEQUENCER, 256, 22, 24, None), (SEQUENCER, 320, 95, 100, None),
    (Unit.STREAM, 0, 4, 40, Work("q/k/v_proj", 72)), (Unit.LOAD, 64, 6, 16, Work("embedding", 20)),
    (Unit.MATMUL, 128, 10, 50, Work("q/k/v_proj", macs=240, number_format="int8")),
    (Unit.VECTOR, 192, 30, 70, None), (Unit.STORE, 256, 80, 90, Work("input and output", 10)))
SPENT = {  # operation -> cycles of matmul, vector, store, load, stream, sequencer
    START: (0, 0, 0, 0, 0, 7), "projections": (40, 0, 0, 0, 2, 2), "embedding": (0, 0, 0, 4, 0, 0),
    "attention": (0, 20, 0, 0, 0, 0), "lm_head": (0, 0, 10, 0, 0, 15)}
COUNTS = {name: 0 for name, _ in COUNTERS} | {"cycles": 100, "read_beats": 120, "write_beats": 4}


def document(*, kinds=("prefill", "decode", "decode"), title=TITLE):
    """A trace of runs that are all alike, with gaps between them."""
    timeline, work, begin = Timeline(LABELS), {}, 1000
    for number in range(len(kinds)):
        for track, offset, first, last, each in EVENTS:
            timeline.events.append(Event(track, number, offset, begin + first, begin + last))
            if each:
                work[timeline.events[-1]] = each
        timeline.runs.append(Span(begin, begin + 100))
        begin += 150
    runs = [{"name": f"{kind} {i}", "kind": kind, "position": 3 * i, "tokens": 3 if kind == "prefill" else 1,
             "counters": COUNTS} for i, kind in enumerate(kinds)]
    config = load_preset("micro")
    about = {"format": 1, "title": title, "configuration": asdict(config), "config_hash": config.sha256,
             "memory": {"read_latency": 40}, "simulator": "verilator", "tools": {"numpy": "9.9"}, "runs": runs}
    return json.loads(json.dumps(timeline.as_json([run["name"] for run in runs], work=work,
                                                  about={"tilewright": about})))


@pytest.fixture
def written(tmp_path):
    """Function content -> a file that holds it, as JSON unless it is text."""
    def write(content):
        path = tmp_path / "trace.json"
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return path
    return write


@pytest.fixture
def command(command, monkeypatch):
    """Function arguments -> exit code, standard output, standard error of ``tilewright report``."""
    monkeypatch.setenv("COLUMNS", "300")
    return partial(command, "report")


def test_phases():
    trace = Trace(document())
    assert trace.config == load_preset("micro") and trace.cycles == 300 and trace.formats == ["int8"]
    assert [(run.start, run.stop, run.tokens) for run in trace.runs] == [(0, 100, 3), (100, 200, 1), (200, 300, 1)]
    phases = trace.phases()
    assert list(phases) == ["prefill", "decode"]
    for phase, runs, tokens in ((phases["prefill"], 1, 3), (phases["decode"], 2, 2)):
        assert (phase.runs, phase.tokens, phase.cycles, phase.macs) == (runs, tokens, 100 * runs, 240 * runs)
        assert phase.read == {"q/k/v_proj": 72 * runs, "embedding": 20 * runs, "program": 6 * 64 * runs}
        assert phase.write == {"input and output": 10 * runs}
        assert phase.kinds == {"q/k/v_proj": (240 * runs, 40 * runs, 72 * runs)}
        assert phase.moved(trace.config) == (480 * runs, 16 * runs)
        assert phase.counters == {name: value * runs for name, value in COUNTS.items()}


def test_each_cycle_counts_once():
    """A MATMUL's before a VECTOR's, theirs before a LOAD's; what no unit worked in is the sequencer's."""
    phases = Trace(document()).phases()
    assert set(phases["decode"].spent) == {
        ("", START), ("layer 0", "projections"), ("", "embedding"), ("layer 0", "attention"), ("", "lm_head")}
    for phase in phases.values():
        assert {name: tuple(cycles // phase.runs) for name, cycles in phase.operations().items()} == SPENT
        assert sum(cycles.sum() for cycles in phase.spent.values()) == phase.cycles


def test_busy():
    matmul = Trace(document()).tracks[Unit.MATMUL]   # 10..50, 110..150, 210..250
    assert matmul.busy(np.array([0, 30, 60, 100, 150, 240])).tolist() == [20, 20, 0, 40, 30]
    assert matmul.busy(np.array([0, 30, 300]), 4 * matmul.macs).tolist() == [480, 2400]


def test_without_units():
    """A program of scalar commands alone."""
    text = document(kinds=("prefill",))
    text["traceEvents"] = [event for event in text["traceEvents"] if event["ph"] == "M" or event["tid"] <= 1]
    trace = Trace(text)
    assert trace.phases()["prefill"].macs == 0
    assert "<svg" in page(trace)


class _Page(HTMLParser):
    """Ids, links, and that each element is closed."""

    def __init__(self, text):
        super().__init__()
        self.open, self.ids, self.links = [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        if tag != "meta":
            self.open.append(tag)
        self.handle_startendtag(tag, attributes)

    def handle_startendtag(self, tag, attributes):
        for name, value in attributes:
            if name == "id":
                self.ids.append(value)
            elif name in ("href", "xlink:href", "src"):
                self.links.append(value)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_page():
    trace = Trace(document())
    text = page(trace, date="1 May 2031")
    assert text == page(Trace(document()), date="1 May 2031")
    assert "1 May 2031" in text and "1 May 2031" not in page(trace)
    assert "a &lt;model&gt; &amp; $x$ on micro" in text and "<model>" not in text
    parsed = _Page(text)
    assert not parsed.open and len(parsed.ids) == len(set(parsed.ids))
    assert parsed.links and all(link[0] == "#" and link[1:] in parsed.ids for link in parsed.links)
    assert set(re.findall(r"url\(#(.*?)\)", text)) <= set(parsed.ids)
    assert "http" not in text.replace("http://www.w3.org/", "")
    pictures = re.findall(r"<svg.*?</svg>", text, re.DOTALL)
    assert len(pictures) == 7  # three of the time, roofline, bytes, cycles of two phases
    for picture in pictures:
        ElementTree.fromstring(picture)
    assert len(text) < 400_000
    for cell in ("480", "75.0%", "read_latency", "9.9", load_preset("micro").sha256, "prefill 0", "decode 2"):
        assert f">{cell}<" in text
    for name, doc in COUNTERS:
        assert f"<td>{name}</td>" in text and f"<td>{doc}</td>" in text


def test_command(written, tmp_path, command):
    place = tmp_path / "deep" / "report.html"
    code, out, err = command(written(document()), "-o", place, "--date", "today")
    assert (code, out.strip(), err) == (0, str(place), "")
    assert place.read_text() == page(Trace(document()), date="today")
    code, out, err = command(written(document()), "-o", place, "--json")
    figures = json.loads(out)
    assert (code, err) == (0, "") and figures["phases"]["decode"]["bytes_read"] == 960
    assert figures["phases"]["prefill"]["cycles_by_operation"]["attention"]["vector"] == 20
    assert [*figures["phases"]["prefill"]["cycles_by_operation"]["lm_head"].values()] == list(SPENT["lm_head"])
    assert len(ORDER) == len(SPENT["lm_head"])


def damaged(change):
    """A document after ``change``."""
    text = document()
    change(text, text["otherData"]["tilewright"])
    return text


@pytest.mark.parametrize("content, told", [
    ("", "no JSON"), ("[" * 100_000, "no JSON"), ([], "no trace of Tilewright"), ({"traceEvents": []}, "no trace of"),
    ({"otherData": None}, "no trace of"), ({"otherData": {"tilewright": {}}}, "damaged"),
    ({"otherData": {"tilewright": 3}}, "damaged"),
    (damaged(lambda text, about: about.update(format=2)), "format 2, this version reads 1"),
    (damaged(lambda text, about: about.update(runs=[])), "no run"),
    (damaged(lambda text, about: about["runs"].append(about["runs"][0])), "damaged"),
    (damaged(lambda text, about: about["configuration"].update(rows=3)), "rows = 3"),
    (damaged(lambda text, about: about["configuration"].pop("rows")), "damaged"),
    (damaged(lambda text, about: text["traceEvents"].pop(0) and text["traceEvents"][-1].pop("ts")), "damaged"),
    (damaged(lambda text, about: text["traceEvents"][-1]["args"].update(run=9)), "damaged"),
    (damaged(lambda text, about: text["traceEvents"][-1]["args"].update(bytes="x")), "trace.json"),
])
def test_wrong_files(written, command, content, told):
    path = written(content)
    code, out, err = command(path)
    assert code == 2 and out == "" and len(err.splitlines()) == 1
    assert told in err and "trace.json" in err and "--trace" in err
    with pytest.raises(UserError):
        read_trace(path)


def test_places(written, tmp_path, command):
    for arguments in ((tmp_path / "none.json",), (tmp_path,), (written(document()), "-o", tmp_path)):
        code, _, err = command(*arguments)
        assert code == 2 and len(err.splitlines()) == 1
    binary = tmp_path / "binary"
    binary.write_bytes(bytes(range(256)))
    assert command(binary)[0] == 2

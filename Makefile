# Everything happens in a virtual environment of its own; `make` alone lists the targets.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
WORKERS ?= 2
# reference adds PyTorch and transformers, for one test file.
EXTRAS ?= sim,test,board
HISTORY := tests/synth/history.csv
BUDGETS := tests/synth/budgets.toml
BOARD ?= ulx3s-85f
RESOURCES := fpga/results/resources.csv
PROMPT := The gray cat sat on the old stone wall and watched the rain fall over the quiet garden

# Without Icarus its tests are left out, and said so.
ICARUS := $(shell command -v iverilog)
ifeq ($(ICARUS),)
LEFT_OUT := and not icarus
endif

.PHONY: help setup run whole-model test test-all bench synth bitstream bitstreams docs soak lint clean left-out

help:
	@echo "make setup        install into $(VENV)"
	@echo "make run          generate, compile, simulate and compare a layer of a real model"
	@echo "make whole-model  a whole model of 135 million parameters on the generated hardware"
	@echo "make test         lint and the quick tests"
	@echo "make test-all     the slow tests and synthesis against the area budgets"
	@echo "make bench        measure cycles and bandwidth of the presets"
	@echo "make synth        area of units and presets on Lattice ECP5, against their budgets"
	@echo "make bitstream    a board's bitstream and its report: make bitstream BOARD=ulx3s-85f"
	@echo "make bitstreams   those of all boards"
	@echo "make docs         write docs/commands.md and docs/models.md anew"
	@echo "make lint         ruff"
	@echo "make clean        remove what was built, but not $(VENV)"

setup: $(STAMP)

$(STAMP): pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[$(EXTRAS)]'
	touch $@

run: $(STAMP)
	mkdir -p build
	$(BIN)/tilewright run --json build/run.json

# About half an hour; 3 GB of memory.
# As its file has it (Q4_1 blocks, nothing quantised again), and in INT8.
whole-model: $(STAMP)
	for weights in file int8; do $(BIN)/tilewright complete smollm2-135m --backend sim --check --weights $$weights \
		--context 128 --tokens 8 --prompt "$(PROMPT)" --json build/whole-model-$$weights.json || exit 1; done

bench: $(STAMP)
	$(BIN)/tilewright bench

lint: $(STAMP)
	$(BIN)/ruff check .

test: lint left-out
	$(BIN)/pytest -n $(WORKERS) -m 'not slow $(LEFT_OUT)'

test-all: synth left-out
	$(BIN)/pytest -n $(WORKERS) -m 'slow $(LEFT_OUT)'

left-out: $(STAMP)
ifeq ($(ICARUS),)
	@echo "************************************************************************"
	@echo "WARNING: no iverilog on PATH (apt-get install iverilog). NOT TESTED:"
	@$(BIN)/pytest -q --collect-only -m icarus | grep '::' || true
	@echo "************************************************************************"
endif

synth: $(STAMP)
	$(BIN)/tilewright synth --budgets $(BUDGETS) --history $(HISTORY)

bitstream: $(STAMP)
	$(BIN)/tilewright build --board $(BOARD) -o build/$(BOARD) --history $(RESOURCES)

# An hour or more on one core.
bitstreams: $(STAMP)
	for board in $$($(BIN)/python -c 'from tilewright.fpga.boards import BOARDS; print(*BOARDS)'); do \
		$(BIN)/tilewright build --board $$board -o build/$$board --history $(RESOURCES) || exit 1; done

docs: $(STAMP)
	$(BIN)/python -m tilewright.gen.command_document docs/commands.md
	$(BIN)/python -m tilewright.gen.function_report docs
	$(BIN)/python -m tilewright.gen.model_report docs/models.md

soak: $(STAMP)
	$(BIN)/tilewright soak -o build/soak.json

clean:
	rm -rf build .pytest_cache .ruff_cache
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +

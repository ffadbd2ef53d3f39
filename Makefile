# Each target does its own set-up in .venv, again only when requirements.txt changed.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/ready
# one more than cores: many unit tests wait for processes of their own
WORKERS = $(shell $(BIN)/python -c 'import os; print(1 + os.cpu_count())')

.PHONY: run test same soak gpu-check lint lab publish site lock

run: $(READY)            ## run the whole series headless; ends with a table and a page to open
	$(BIN)/python -m labutils run

# One thread a process: two of them beside a busy neighbour are slower than one. Notebooks are neighbours: each does its
# sweeps itself (LOKY_MAX_CPU_COUNT), which saves it two processes that would import torch. The longest begins first.
# What is executed are copies with the solutions of the exercises at their ends.
test: lint               ## everything that is checked; the notebooks at smoke scale, in an empty outputs folder
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder --ignore tests/browser
	$(BIN)/python -m pytest tests/browser
	outputs=$$(mktemp -d) && trap 'rm -rf "$$outputs"' EXIT && $(BIN)/python tests/solutions.py build/solved && \
	    OMP_NUM_THREADS=1 LOKY_MAX_CPU_COUNT=1 NUMBA_OPT=0 LABUTILS_SCALE=smoke LABUTILS_OUTPUTS=$$outputs \
	    $(BIN)/python -m pytest -n auto --dist worksteal --nbmake $$(ls -r build/solved/*.ipynb)

same: $(READY)           ## prove that an edit changed no number: stored and published runs then keep their names
	$(BIN)/python tests/golden.py $(BASE)

soak: $(READY)           ## what must not be lost: processes killed, raced and starved, for some minutes
	$(BIN)/python -m pytest -m soak

gpu-check: $(READY)      ## an accelerator beside this processor: the same numbers? how fast? several runs at once? minutes
	$(BIN)/python tests/accelerator.py

lint: $(READY)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

lab: $(READY)            ## open the notebooks, as copies of your own: saving one changes no committed file
	mkdir -p outputs/local/lab
	for f in notebooks/*.ipynb; do [ -e "outputs/local/lab/$${f##*/}" ] || cp "$$f" outputs/local/lab; done
	$(BIN)/jupyter lab outputs/local/lab

publish: $(READY)        ## replace the committed results by those of a full run on the full MNIST
	rm -rf outputs/local/mnist-full
	LABUTILS_SCALE=full LABUTILS_OUTPUTS= LABUTILS_DATASET= LABUTILS_SEEDS= $(BIN)/python -m labutils run
	$(BIN)/python -m labutils publish

site: $(READY)           ## write build/site from what is published: pages for a browser, without network
	$(BIN)/python -m labutils site

$(READY): requirements.txt
	$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(None if (3, 11) <= v < (3, 14) else "Python 3.11 to 3.13 is needed, this is %d.%d: make PYTHON=python3.13" % v[:2])'
	@echo 'Setting up .venv: some minutes and almost 7 GB, once'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

lock: $(READY)           ## compile requirements.txt anew from pyproject.toml
	$(BIN)/python -m pip install --quiet uv
	echo '# Locked for Linux, macOS and Windows and Python 3.11 to 3.13. Made from pyproject.toml by `make lock`; change that, not this.' > requirements.new
	$(BIN)/uv pip compile pyproject.toml --universal --extra dev --python-version 3.11 --no-header --no-annotate --upgrade --quiet >> requirements.new
	echo '-e .' >> requirements.new
	mv requirements.new requirements.txt

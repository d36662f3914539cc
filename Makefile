# `make demo` and `make test` need only Python 3.11 or newer: each makes .venv and installs what it uses.
PYTHON ?= python3
BIN := .venv/bin
SHARED := $(if $(wildcard ../shared/data/radiographs),--flags shared)

# libraries talk to their own developers, and timm warns when models/03_classifier registers its networks in a process that has imported them
export PYTHONWARNINGS := ignore::FutureWarning,ignore::DeprecationWarning,ignore:Overwriting:UserWarning

.PHONY: demo test pages numbers docs long long-pages long-tests long-proofs clean

demo: .venv/.installed
	$(BIN)/xray_xfer demo

test: .venv/.installed-dev
	# the quick pages are run by tests/test_outputs.py, which looks at what they show as well; cells about the real images
	# (shared) by `make pages` and `make long`;
	# one thread each: two processes that both spin on two cores slow each other down twentyfold
	OMP_NUM_THREADS=1 $(BIN)/nbdev-test --n-workers 2 --path-re "$$($(BIN)/python tools/rerun.py --slow)"
	OMP_NUM_THREADS=1 GOMP_SPINCOUNT=1000 $(BIN)/python -m pytest -q -ra -n 2 --dist loadfile --no-loadscope-reorder

pages: .venv/.installed-dev   # run the notebooks, keep their outputs, and make README.md and llms.txt from them
	$(BIN)/nbdev-export
	OMP_NUM_THREADS=1 $(BIN)/nbdev-test --n-workers 2 $(SHARED) --save
	$(BIN)/nbdev-clean
	$(BIN)/python tools/readme.py
	$(BIN)/python tools/llms.py

numbers: .venv/.installed-dev   # figures and cells of the pages anew, after a change of the files under benchmarks/
	$(BIN)/python tools/figures.py
	$(BIN)/python tools/blocks.py
	$(BIN)/python tools/readme.py

# The slow proofs, hours on two cores. First the tests that CI leaves out (kills, the largest networks, real images); then, for
# a change of intervals, comparisons or controls, how often each holds the truth in data of which it is known. Each writes its table into benchmarks/, to be committed with the change and read against what the
# pages promise; less in a first try: benchmarks/simulate.py intervals --draws 200. Whether numbers stayed the same after a
# change that should not touch them is another question: python tools/same_numbers.py main (some minutes).
long: long-pages long-tests long-proofs

long-pages: .venv/.installed-dev   # also what make test leaves out of the notebooks; the tutorials in turn, for they share a study
	$(BIN)/nbdev-test nbs/tutorials --n-workers 0 --flags '$(if $(SHARED),shared )slow'
	OMP_NUM_THREADS=1 $(BIN)/nbdev-test --n-workers 2 --skip-folder-re '^([_.]|tutorials)' --flags '$(if $(SHARED),shared )slow'

long-tests: .venv/.installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -ra -m slow

long-proofs: .venv/.installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/simulate.py intervals differences seeds
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/controls_sim.py
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/kills.py

docs: .venv/.installed-dev   # the site in _docs, which needs Quarto; tools/pages.py is found by PYTHONPATH
	PYTHONPATH=. $(BIN)/nbdev-docs
	cp nbs/llms.txt _docs/   # Quarto takes along what a page links to

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo 'xray_xfer needs Python 3.11 or newer: make PYTHON=/path/to/python3.11 ...'; exit 1; }
	$(PYTHON) -m venv .venv

# Python compiles what is imported when it first is: pip would compile 17,000 files, most of them for nobody, in a minute or more
.venv/.installed: .venv/bin/python settings.ini setup.py pyproject.toml
	$(BIN)/python -m pip install --disable-pip-version-check --no-compile -e .
	@touch $@

.venv/.installed-dev: .venv/bin/python settings.ini setup.py pyproject.toml
	$(BIN)/python -m pip install --disable-pip-version-check --no-compile -e '.[dev]'
	@touch .venv/.installed $@

clean:
	rm -rf .venv _proc _docs build dist *.egg-info

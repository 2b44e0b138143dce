# The commands of the project. `make` alone lists them. GNU make 3.81 (macOS) or newer.
# Recipes name files relative to this folder, so a checkout may lie anywhere, spaces included.

# Only used to make .venv; from then on everything runs with .venv/bin/python.
PYTHON ?= python3
PORT ?= 8000
CHAPTER ?= hubness
# Where ruff looks. The code inside the chapters is checked as notebooks made from them.
SOURCES = kexue_lib tests tools benchmarks book/_ext
RUN = .venv/bin/python

# $(call phase,title,command): run a command under a title and say how long it took.
phase = @printf '== %s\n' '$(1)'; start=$$(date +%s); $(2) || exit $$?; \
	printf '   %s s\n' "$$(($$(date +%s) - start))"

.PHONY: help env book pdf epub test lint types lab serve bench full sweeps gpu lock clean distclean
# One thing after the other: with -j the output of two phases would be mixed.
.NOTPARALLEL:

help: ## list these commands
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' Makefile

env: ## make or complete .venv (PYTHON=python3.12, TORCH="torch==2.13.0 --index-url ...")
	@command -v "$(PYTHON)" >/dev/null || { \
	  echo "env: there is no program $(PYTHON): install Python 3.11 or newer, or point to it," \
	  "for example make PYTHON=python3.12 book." >&2; exit 1; }
	@"$(PYTHON)" tools/env.py

book: env ## execute the chapters that changed and build _build/html
	@$(RUN) tools/book.py

pdf: book ## print the whole book into _build/kexue.pdf (needs chromium; takes some minutes)
	@$(RUN) tools/pdf.py

epub: book ## make an EPUB of the whole book, _build/kexue.epub (needs chromium; takes a minute)
	@$(RUN) tools/epub.py

test: env lint book ## everything that is checked; ends with pytest's summary
	@printf '== tests\n'
	@# As many processes as cores leave nothing for threads inside them; one more, since many of them wait
	@# for a kernel or a browser. In the order of the files, so that the long runs of chapters begin early.
	@OMP_NUM_THREADS="$${OMP_NUM_THREADS:-1}" \
	PYTEST_XDIST_AUTO_NUM_WORKERS="$$(( $$($(RUN) -c 'import os; print(os.cpu_count())') + 1 ))" \
	$(RUN) -m pytest tests kexue_lib \
	  -n auto --maxprocesses=4 --dist loadfile --no-loadscope-reorder

lint: env ## style and mistakes, in the library and in the chapters
	$(call phase,lint,$(RUN) -m ruff check -q $(SOURCES) && $(RUN) -m ruff format -q --check $(SOURCES))
	$(call phase,lint of the chapters,rm -rf out/lint && mkdir -p out/lint && $(RUN) -c "$$WRITE_CHAPTERS" \
	  && $(RUN) -m ruff check -q --ignore D --line-length 79 out/lint)

# The chapters, and the template of one, as notebooks without outputs: there ruff knows cells.
define WRITE_CHAPTERS
import jupytext
from kexue_lib.notebooks import chapters
for slug in [*chapters(), "_template"]:
    jupytext.write(jupytext.read(f"book/{slug}.md"), f"out/lint/{slug}.ipynb")
endef
export WRITE_CHAPTERS

types: env ## mypy --strict on the library
	$(call phase,types,$(RUN) -m mypy)

# Everything that JupyterLab keeps goes below .lab, not into the reader's home.
lab: env ## open a chapter in JupyterLab (CHAPTER=hubness, LAB_OPTIONS=--no-browser)
	@mkdir -p .lab; lab="$$PWD/.lab"; \
	JUPYTERLAB_SETTINGS_DIR="$$lab/settings" JUPYTERLAB_WORKSPACES_DIR="$$lab/workspaces" \
	JUPYTER_CONFIG_DIR="$$lab/config" JUPYTER_DATA_DIR="$$lab/data" \
	IPYTHONDIR="$$lab/ipython" MPLCONFIGDIR="$$lab/matplotlib" \
	$(RUN) -m jupyterlab --ServerApp.root_dir=. --LabApp.default_url="/lab/tree/book/$(CHAPTER).md" \
	  --FileCheckpoints.checkpoint_dir="$$lab/checkpoints" $(LAB_OPTIONS)

serve: book ## show the built book at http://127.0.0.1:8000 (PORT=8000)
	@$(RUN) -c 'import socket, sys; socket.create_server(("127.0.0.1", int(sys.argv[1])))' "$(PORT)" \
	  2>/dev/null || { echo "serve: port $(PORT) is taken: make PORT=8001 serve." >&2; exit 1; }
	@echo "http://127.0.0.1:$(PORT)  (Ctrl-C ends it)"
	@$(RUN) -m http.server "$(PORT)" --bind 127.0.0.1 --directory _build/html

bench: env ## run the benchmarks; each records its result below results/
	@for file in benchmarks/bench_*.py; do \
	  printf '== %s\n' "$$file"; $(RUN) "$$file" || exit $$?; done

full: env ## run a chapter with the full profile and record what it finds (CHAPTER=lion; takes up to an hour)
	@$(RUN) tools/full.py $(CHAPTER)

sweeps: env ## run the sweeps that the chapters recommend and record what they find (takes an hour)
	@OMP_NUM_THREADS=1 $(RUN) tools/sweeps.py

gpu: env ## run every chapter on a GPU with the full profile, compare it with the CPU, record how they agree
	@$(RUN) tools/gpu.py

lock: env ## write requirements.lock anew from requirements.in
	@.venv/bin/uv pip compile -q requirements.in --universal --python-version 3.11 \
	  --generate-hashes --no-strip-extras -o requirements.lock

clean: ## remove all that is made from the sources, but not .venv
	@rm -rf _build out .pytest_cache .mypy_cache .ruff_cache .hypothesis htmlcov .coverage .coverage.*
	@find . -name .venv -prune -o -type d \( -name __pycache__ -o -name .ipynb_checkpoints \) \
	  -prune -exec rm -rf {} +

distclean: clean ## also remove .venv and JupyterLab's settings
	@rm -rf .venv .lab

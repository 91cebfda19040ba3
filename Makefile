# Two commands do everything: `make demo` (nothing -> trained agent -> report) and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PEER := .venv-peer
SUDO := $(shell [ "$$(id -u)" = 0 ] || command -v sudo)
PIP := $(BIN)/pip install -qq --no-compile --disable-pip-version-check -c constraints.txt
EXPERIMENTS := what-if novelty-detection hidden-mass online-learning pixels
TASKS := reacher two_room point_maze pendulum cartpole acrobot double_pendulum cup push_t cube

.PHONY: demo test lint format bench pretrained ablations experiments pages clean

demo: $(VENV)/.opengl  ## collect, train, evaluate, report; run again to continue after an interruption
	$(BIN)/mujepa train reacher --out runs/reacher --resume
	$(BIN)/mujepa evaluate runs/reacher --episodes 200 --oracle-episodes 100
	@echo "open runs/reacher/evaluation/report.html"

test: lint $(VENV)/.chromium  ## lint, types, tests
	$(BIN)/python -m pytest -n 2 --dist loadfile

lint: $(VENV)/.dev $(VENV)/.opengl
	$(BIN)/ruff check -q --output-format concise .
	$(BIN)/ruff format -q --check .
	$(BIN)/lint-imports > $(VENV)/imports.log || { cat $(VENV)/imports.log; exit 1; }
	$(BIN)/pyright

format: $(VENV)/.dev
	$(BIN)/ruff check -q --fix .
	$(BIN)/ruff format -q .

bench: $(VENV)/.dev $(VENV)/.opengl $(PEER)/.installed  ## speed on this machine, alone and beside the peer: docs/performance.md
	$(BIN)/python benchmarks/stages.py
	$(BIN)/python benchmarks/limits.py
	$(BIN)/python benchmarks/growth.py
	$(BIN)/python benchmarks/evaluation.py
	$(BIN)/python benchmarks/cluster.py
	$(BIN)/python benchmarks/peers.py
	$(BIN)/python benchmarks/performance_page.py
	$(BIN)/python benchmarks/history.py

pretrained: $(TASKS:%=pretrained-%)  ## the checkpoints in pretrained/, from nothing; with -j2 two at a time

# One thread each: two trainings side by side are faster than one after the other on both cores.
THREADS := 1
pretrained-reacher: THREADS := 0
EPISODES := 200
pretrained-reacher: EPISODES := 500
pretrained-%: $(VENV)/.opengl
	$(BIN)/mujepa train $* --out runs/pretrained-$* --seed 0 --threads $(THREADS) --resume
	rm -rf pretrained/$* && cp -r runs/pretrained-$*/best pretrained/$*
	$(BIN)/mujepa evaluate pretrained/$* --episodes $(EPISODES) --oracle-episodes 100 --out runs/pretrained-$*/evaluation
	cp runs/pretrained-$*/evaluation/result.json pretrained/$*/

SEED := 1
seed-reacher: EPISODES := 500
seed-%: $(VENV)/.opengl  ## another training seed of a task, as in: make seed-reacher SEED=2
	$(BIN)/mujepa train $* --out runs/$*-seed$(SEED) --seed $(SEED) --threads 1 --resume
	$(BIN)/mujepa evaluate runs/$*-seed$(SEED) --episodes $(EPISODES) --no-oracle
	cp runs/$*-seed$(SEED)/evaluation/result.json benchmarks/results/$*-seed$(SEED).json

STEPS := 50
CHECKPOINT = $(if $(filter 0,$(SEED)),pretrained/$*,runs/$*-seed$(SEED))
far-%: $(VENV)/.opengl  ## goals further ahead, as in: make far-push_t STEPS=75 SEED=0
	$(BIN)/mujepa evaluate $(CHECKPOINT) --protocol ahead=$(STEPS) --episodes 200 --oracle-episodes 100 --out runs/$*-seed$(SEED)-$(STEPS)steps
	cp runs/$*-seed$(SEED)-$(STEPS)steps/result.json benchmarks/results/$*-seed$(SEED)-$(STEPS)steps.json

ablations: $(VENV)/.opengl  ## docs/ablations.md: the shipped agents with one thing changed at a time
	$(BIN)/python benchmarks/ablations.py
	$(BIN)/python benchmarks/ablations.py --tasks reacher --parts loss critic

experiments: $(EXPERIMENTS:%=experiment-%)  ## docs/does-it-hold.md: the claims put to the test, an hour each at most

experiment-%: $(VENV)/.opengl
	$(BIN)/python experiments/$(subst -,_,$*).py

pages: $(VENV)/.opengl  ## docs/tasks.md and its pictures, from what was measured; the line numbers of docs/derivations.md; the tables of docs/performance.md
	$(BIN)/python benchmarks/tasks_page.py
	$(BIN)/python benchmarks/derivations_page.py
	$(BIN)/python benchmarks/performance_page.py

clean:
	rm -rf $(VENV) $(PEER) build dist *.egg-info

$(VENV)/.run: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV) || { $(SUDO) apt-get update -q && $(SUDO) apt-get install -y -q python3-venv && $(PYTHON) -m venv $(VENV); }
	$(PIP) -e .
	mkdir -p $(VENV)/src && ln -sfn ../.. $(VENV)/src/mujepa  # where pyright finds the package
	touch $@

$(VENV)/.dev: $(VENV)/.run
	$(PIP) -e '.[dev]'
	touch $@

# MuJoCo draws through the system's OpenGL library: install a software one if none works.
$(VENV)/.opengl: $(VENV)/.run
	$(BIN)/python -c "from mujepa.envs.rendering import gl_context; gl_context()" 2> /dev/null || { \
	  $(SUDO) apt-get update -q && $(SUDO) apt-get install -y -q --no-install-recommends libegl1 libopengl0 libgl1-mesa-dri && \
	  $(BIN)/python -c "from mujepa.envs.rendering import gl_context; gl_context()"; }
	touch $@

# The tests open the what-if page in a browser: install one if there is none.
$(VENV)/.chromium: $(VENV)/.dev
	test -x /usr/bin/chromium || { \
	  $(SUDO) apt-get update -q && $(SUDO) apt-get install -y -q --no-install-recommends chromium && test -x /usr/bin/chromium; }
	touch $@

# The peer that benchmarks/peers.py measures, 2.3 GB: apart from ours, with versions of its own.
$(PEER)/.installed: benchmarks/peer-requirements.txt | $(VENV)/.run
	$(PYTHON) -m venv $(PEER)
	$(PEER)/bin/pip install -qq --no-cache-dir --no-compile --disable-pip-version-check -r $<
	touch $@

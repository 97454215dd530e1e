# `make demo` and `make test` each do their own set-up; they need Python 3.11-3.13 and make, nothing else.
# `make help` lists the targets. PYTHON=/path/to/python3.12 chooses the interpreter of a new environment.

SHELL := /bin/sh
.DEFAULT_GOAL := help
.PHONY: help setup demo smoke test check fmt bench bench-gpu drills lock clean

BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input -qq
NOT_HERE := not drill and not gpu and not live

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1\t\2/p' Makefile | awk -F '\t' '{ printf "make %-10s %s\n", $$1, $$2 }'

# The stamp holds the place, the interpreter's version and a checksum of the lock and of pyproject.toml:
# while it matches, nothing is installed again. A moved checkout gets a new environment (scripts in it hold paths).
setup: ## make .venv and install the locked versions, once
	@set -eu; \
	key="$$(pwd) $$(cat requirements.lock pyproject.toml | cksum)"; \
	if [ -x $(BIN)/python ] && [ -f .venv/.swath ] && [ "$$(cat .venv/.swath)" = "$$key" ]; then exit 0; fi; \
	if [ -f .venv/.place ] && [ "$$(cat .venv/.place)" != "$$(pwd)" ]; then rm -rf .venv; fi; \
	if ! $(BIN)/python -c 'import pip' 2>/dev/null; then \
	  chosen=''; \
	  for name in "$${PYTHON:-python3.13}" python3.13 python3.12 python3.11 python3; do \
	    if "$$name" -c 'import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; then \
	      chosen="$$name"; break; \
	    fi; \
	  done; \
	  if [ -z "$$chosen" ]; then \
	    echo 'swath needs Python 3.11, 3.12 or 3.13 with its venv module, and none was found: install one (Debian and Ubuntu: python3 python3-venv), or name it: make PYTHON=/path/to/python3.12 ...' >&2; \
	    exit 1; \
	  fi; \
	  "$$chosen" -m venv .venv; \
	fi; \
	pwd > .venv/.place; \
	echo 'Installing the locked versions into .venv (6 GB on Linux, a few minutes, once) ...'; \
	tries=1; \
	until $(PIP) install --retries 10 --timeout 120 --no-deps -r requirements.lock; do \
	  if [ "$$tries" -ge 3 ]; then echo 'The locked versions could not be installed: see the message above; the same command goes on where it stopped.' >&2; exit 1; fi; \
	  tries=$$((tries + 1)); sleep 5; \
	done; \
	$(PIP) install --no-deps --no-build-isolation -e .; \
	echo "$$key" > .venv/.swath

demo: setup ## real Sentinel-2 to a report: curate, pretrain, transfer; under ./runs
	@$(BIN)/swath study demo

smoke: setup ## the same story on the synthetic Earth, with no network
	@$(BIN)/swath study smoke

# `check` runs the architecture's tests
test: setup ## every test that needs no GPU, no network and no minutes of its own
	@$(BIN)/python -m pytest -q -n 2 --dist loadfile -m "$(NOT_HERE) and not integration and not slow" --ignore tests/test_architecture.py
	@$(BIN)/python -m pytest -q -n 2 --dist load -m "$(NOT_HERE) and slow and not integration"
	@$(BIN)/python -m pytest -q -n 2 --dist loadfile -m "$(NOT_HERE) and integration"

check: setup ## format, lint, types, dead code, architecture
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/vulture
	@$(BIN)/python -m pytest -q tests/test_architecture.py

fmt: setup ## format and fix what can be fixed
	@$(BIN)/ruff check --fix-only .
	@$(BIN)/ruff format .

# The peers get an environment of their own that sees the locked one, so that torch is not installed twice.
bench: setup ## ratios against peers, measured in one run
	@wanted="$$(cksum < tests/bench/peers.txt)"; \
	if [ "$$(cat .venv-bench/.ready 2>/dev/null)" != "$$wanted" ]; then \
	  $(BIN)/python -m venv .venv-bench && \
	  $(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' \
	    > "$$(.venv-bench/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/locked.pth" && \
	  if .venv-bench/bin/python -m pip --disable-pip-version-check --no-input -q install -r tests/bench/peers.txt; then \
	    echo "$$wanted" > .venv-bench/.ready; \
	  else echo 'The peers could not be installed: the benchmark runs without them.' >&2; fi; \
	fi
	@$(BIN)/python tests/bench/bench_shards.py
	@$(BIN)/python tests/bench/bench_cut.py
	@$(BIN)/python tests/bench/bench_write.py --chips 5000
	@$(BIN)/python tests/bench/bench_feed.py
	@$(BIN)/python tests/bench/bench_step.py
	@$(BIN)/python tests/bench/bench_views.py
	@$(BIN)/python tests/bench/bench_distill.py --tiny

bench-gpu: setup ## step time, utilisation and memory of the published encoders on a GPU
	@$(BIN)/python tests/gpu/bench_mae.py
	@$(BIN)/python tests/bench/bench_distill.py
	@$(BIN)/python tests/gpu/bench_skysense.py

drills: setup ## kill, fault and corruption drills; minutes each
	@$(BIN)/python -m pytest -q -m drill

lock: setup ## resolve pyproject.toml again and write requirements.lock
	@$(PIP) install uv
	@printf 'torch==2.14.1\ntorchvision==0.29.1\n' > .venv/pins.txt
	@$(BIN)/uv pip compile pyproject.toml --extra dev --universal --python-version 3.11 --upgrade \
	  --no-header --no-annotate --no-emit-index-url --no-emit-find-links -c .venv/pins.txt -q -o requirements.lock

clean: ## remove the environments and caches; ./runs stays
	@rm -rf .venv .venv-bench .mypy_cache .pytest_cache .ruff_cache .hypothesis *.egg-info build dist
	@find geodata training pipelines tests -name __pycache__ -type d -prune -exec rm -rf {} +

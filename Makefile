# make train   a ResNet learns MNIST: own environment, progress bar, run folder under runs/
# make test    lint, types, tests: own environment
# make docs    the site, build/docs/index.html: own environment, every block of code is run
# make slow    the tests that take minutes      make bench   every figure of docs/performance.md
PYTHON ?= python3
ARGS ?=

.PHONY: train test lint types tests slow bench docs clean

train: .venv-train/ready
	.venv-train/bin/tinyconv train mnist $(ARGS)

test: lint types tests

lint: .venv-test/ready
	.venv-test/bin/ruff check .

types: .venv-test/ready
	.venv-test/bin/mypy

tests: .venv-test/ready
	.venv-test/bin/python -m pytest -n 2 -m "not slow" $(ARGS)

slow: .venv-test/ready
	.venv-test/bin/python -m pytest -m slow $(ARGS)

docs: .venv-docs/ready
	.venv-docs/bin/sphinx-build -W --keep-going -E -q -d build/doctrees docs build/docs $(ARGS)
	@echo "open build/docs/index.html"

.venv-train/ready: pyproject.toml
	$(PYTHON) scripts/make_environment.py .venv-train plot,fast

.venv-test/ready: pyproject.toml
	$(PYTHON) scripts/make_environment.py .venv-test dev

.venv-docs/ready: pyproject.toml
	$(PYTHON) scripts/make_environment.py .venv-docs docs

# PyTorch and DeZero must be in .venv-test: .venv-test/bin/pip install torch dezero
bench: .venv-test/ready
	for name in table resnet_step overhead memory import_time kernels accuracy train rounding; do \
		.venv-test/bin/python benchmarks/$$name.py || exit 1; done

clean:
	rm -rf .venv-train .venv-test .venv-docs build dist docs/gallery docs/reference *.egg-info .mypy_cache .ruff_cache .pytest_cache

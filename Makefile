# The few commands that one types all day. `make` lists them.
.PHONY: help install test check ci bench bundled
help:
	@grep -E '^[a-z]+:.*##' Makefile | sed 's/:.*##/\t/'
install: ## an editable install with everything a developer needs
	pip install -e '.[test,dev]'
test: ## the whole suite, offline
	pytest
check: ## style, format, types
	ruff check . && ruff format --check . && mypy
ci: ## what the project's CI runs: a clean clone, a fresh environment, the README's commands
	bash .ci/run
bench: ## every benchmark, one after the other
	for script in benchmarks/*.py; do python $$script || exit 1; done
bundled: ## make the bundled pictures again from their packages
	python scripts/make_bundled.py

# `uv run just` lists the recipes. Nothing but uv has to be installed first.

set positional-arguments

# Show what there is
default:
    @just --list

# Everything a commit must pass, tests excepted
check:
    uv run ruff check
    uv run ruff format --check
    uv run mypy
    uv run lint-imports
    uv run python deploy/pins.py --check
    uv run python docs/generate.py --check

# Repair what can be repaired by itself
fix:
    uv run ruff check --fix
    uv run ruff format

# All tests, as continuous integration runs them
test *args:
    uv run pytest "$@"

# Tests without input or output
test-unit *args:
    uv run pytest tests/unit "$@"

# One part at a time, against a real nats-server
test-service *args:
    uv run pytest tests/service "$@"

# Several parts, real nats-server, real Docker
test-integration *args:
    uv run pytest tests/integration "$@"

# As a user would start it
test-e2e *args:
    uv run pytest tests/e2e "$@"

# What takes longer than two minutes
soak *args:
    uv run pytest -m soak "$@"

# Measure; NAME is a module of tests/bench, such as `bus`
bench name *args:
    module="tests.bench.$1"; shift; uv run python -m "$module" "$@"

# Run the real agents against a scripted provider and write down what they keep: docs/reference/agents.md
agents *args:
    uv run python -m tests.bench.matrix "$@"
    uv run python docs/generate.py

# The same with the newest release of each; prints what is no longer kept, or newly so
agents-latest *args:
    uv run python -m tests.bench.matrix --latest "$@"

# Write docs/reference anew
docs:
    uv run python docs/generate.py

# Write down the versions that are in use
pins:
    uv run --no-sync python deploy/pins.py

# Move to the newest versions
pins-upgrade:
    uv run --no-sync python deploy/pins.py --upgrade
    uv sync

# Run a crew in the foreground
up *args:
    uv run jetcrew up "$@"

# Run `check` before each commit from now on
hooks:
    uv run pre-commit install

# Build both wheels into dist/
wheels:
    uv build --wheel
    uv build --wheel wrapper

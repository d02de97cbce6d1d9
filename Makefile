# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
# Thin: what the targets run is in playbooks/, tests/ and noxfile.py.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: help demo venv test interop molecule lint bench docs

help:
	@echo "make demo   dump, restore and deduplicate a running Redis, and show what it cost"
	@echo "make venv   the virtual environment .venv, with Ansible, the libraries and this collection"
	@echo "make test   unit, integration and interoperability tests (root)"
	@echo "make molecule   the scenarios of extensions/molecule, on hosts made of namespaces (root)"
	@echo "make interop what CRIU restores of ours and we of CRIU's, kind by kind, as a table (root)"
	@echo "make lint   all static checks: ruff, mypy, ansible-test sanity, ansible-lint, documentation, licences"
	@echo "make bench  timings, side by side with CRIU where it is there (root)"
	@echo "make docs   the documentation as HTML"

demo: venv
	$(BIN)/ansible-playbook playbooks/demo.yml

venv:
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || .ci/apt-install python3-venv
	@command -v redis-server >/dev/null && command -v redis-cli >/dev/null || .ci/apt-install redis-server redis-tools
	@[ -e $(BIN)/nox ] && [ .venv/ready -nt requirements.txt ] || PYTHON=$(PYTHON) .ci/make-venv

test: venv
	.ci/run-tests

molecule: venv
	$(BIN)/nox --session molecule

interop: venv
	.ci/run-tests tests/interop tests/lab

lint: venv
	$(BIN)/nox --session lint sanity

bench: venv
	@command -v rsync >/dev/null || .ci/apt-install rsync
	$(BIN)/python tests/bench
	$(BIN)/python tests/bench/gap.py

docs: venv
	$(BIN)/nox --session docs

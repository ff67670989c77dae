# `make demo` and `make test` install what is missing (Debian 12 or 13, as root) and do the rest.

KERNEL ?= 7.3
PREFIX ?= /usr/local
CACHE := $(or $(AGENTCG_CACHE),$(or $(XDG_CACHE_HOME),$(HOME)/.cache)/agentcg)
VENV := $(CACHE)/venv/bin

.DEFAULT_GOAL := help
.PHONY: help setup build install demo test lint bench wheel kernel vm header clean

help: ## show this
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 10

setup: ## install what building, testing and the demo need
	@scripts/setup.sh

build: setup ## build everything
	cargo build --workspace --bins --lib

install: setup ## install the C library and its manual pages below PREFIX, with libelf and zlib built in
	cargo build --release -p agentcg-capi --features vendored
	agentcg-capi/install.sh "$(abspath $(PREFIX))"

demo: build ## show the main job at work, in a machine with a suitable kernel (HOST=1: on this one)
	python3 demo/demo.py

test: setup ## the whole test suite
	@scripts/test.sh

lint: setup ## formatting, lints and types only
	@scripts/test.sh lint

bench: build ## measure beside the alternatives, in the guest and on this host
	@benches/run.sh

wheel: setup ## make the Python wheel that runs anywhere, in target/wheels
	@scripts/wheel.sh

kernel: setup ## build the test kernel with memcg_bpf_ops, for the lab; make test does it too (10 minutes, once)
	@tests/vm/lab.py fetch memcg

vm: setup ## run CMD under KERNEL, for people: make vm KERNEL=7.3 CMD='uname -r'
	@tests/vm/lab.py run --kernel "$(KERNEL)" --timeout 600 -- '$(CMD)'

header: setup ## make include/agentcg.h anew
	AGENTCG_UPDATE_HEADER=1 cargo test -p agentcg-capi

clean: ## remove what was built; the cache in $(CACHE) stays
	cargo clean

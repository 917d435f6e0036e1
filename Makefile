# The project's commands. Long output goes to target/log/.
SHELL := /bin/bash
# Where Debian has tools for root; not everybody's PATH does.
export PATH := $(PATH):/usr/sbin:/sbin
LAB := cargo run --quiet --package rvm-tests --bin lab --

.PHONY: help build demo test lab bench fuzz dist clean

help: ## this list
	@grep -E '^[a-z]+: .*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /make \1\t/' | expand -t 14

build: ## rvm, its agent and its guest, in target/release
	@.ci/build

demo: build ## boot a microVM and show it working
	@if $(LAB) kvm; then RVM_ARTIFACTS=target/release tests/demo; else $(LAB) run --with tests/demo -- demo; fi

test: build ## every test; what needs KVM in the nested lab where this machine's is not real
	@$(LAB) test --labs 3 --second-try

lab: build ## a shell in the nested lab, with the programs built here
	@$(LAB) shell

bench: build ## the benchmarks, in lab time (executed instructions)
	@$(LAB) bench

fuzz: ## each fuzz target for 20 seconds
	@tests/fuzz/run 20

dist: build ## an archive and a Debian package, with checksums, in target/dist
	@.ci/dist

clean: ## everything built here; what is slow to build stays in the cache (see docs/testing.md)
	@cargo clean
	@rm -rf tests/fuzz/target

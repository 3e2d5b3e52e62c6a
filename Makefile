# The README's commands. The build itself is CMake's (CMakePresets.json).
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
JOBS ?= $(shell nproc)
FUZZ_SECONDS ?= 600
# CTest options, e.g. make test CTEST_ARGS='-R kit'
CTEST_ARGS ?=

PACKAGES := build-essential cmake ninja-build ccache pkg-config python3 cpio nasm \
  libfmt-dev libgtest-dev nlohmann-json3-dev libcli11-dev libzydis-dev \
  zlib1g-dev liblzma-dev liblz4-dev libzstd-dev qemu-system-x86
FUZZ_PACKAGES := clang

.PHONY: all setup build demo test bench fuzz clean
all: build

# Installs what is missing, and touches nothing when all is there.
setup: ; @tools/install_packages $(PACKAGES)

build: setup
	@cmake --preset release >build.log 2>&1 || { cat build.log; exit 1; }
	@rm -f build.log
	@cmake --build build -j $(JOBS)

demo: build ; @tools/demo build/trapeze

test: build
	@ctest --test-dir build --output-on-failure -j $(JOBS) $(CTEST_ARGS)

# Takes some minutes. BENCH_ARGS, e.g. make bench BENCH_ARGS='--runs 1 --only boot'
BENCH_ARGS ?=
bench: build ; @python3 bench/run.py build/trapeze $(BENCH_ARGS)

# Longer than the short runs that are part of the sanitizer builds' tests.
fuzz:
	@tools/install_packages $(PACKAGES) $(FUZZ_PACKAGES)
	@cmake --preset fuzz -DTRAPEZE_FUZZ_SECONDS=$(FUZZ_SECONDS)
	@cmake --build build-fuzz -j $(JOBS)
	@ctest --test-dir build-fuzz --output-on-failure -L fuzz -j $(JOBS) $(CTEST_ARGS)

clean: ; rm -rf build build-*

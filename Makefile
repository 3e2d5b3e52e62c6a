# The README's commands. The build itself is CMake's (CMakePresets.json).
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
JOBS ?= $(shell nproc)
FUZZ_SECONDS ?= 600
# CTest options, e.g. make test CTEST_ARGS='-R kit'
CTEST_ARGS ?=

PACKAGES := build-essential cmake ninja-build ccache pkg-config python3 cpio nasm \
  libfmt-dev libgtest-dev liburing-dev nlohmann-json3-dev libcli11-dev libzydis-dev \
  libxbyak-dev libslirp-dev libseccomp-dev busybox-static e2fsprogs xfsprogs squashfs-tools erofs-utils acpica-tools fio iperf3 iproute2 \
  zlib1g-dev liblzma-dev liblz4-dev libzstd-dev qemu-system-x86 qemu-utils qemu-system-common
FUZZ_PACKAGES := clang libclang-rt-14-dev

.PHONY: all setup build demo test bench soak fuzz fuzz-short clean
all: build

# Installs what is missing, and touches nothing when all is there.
setup: ; @tools/install_packages $(PACKAGES)

build: setup
	@cmake --preset release -DTRAPEZE_PCH=ON >build.log 2>&1 || { cat build.log; exit 1; }
	@rm -f build.log
	@cmake --build build -j $(JOBS)

demo: build ; @tools/demo build/trapeze

test: build fuzz-short
	@ctest --test-dir build --output-on-failure -j $(JOBS) $(CTEST_ARGS)

# Takes some minutes (docs/benchmarks.md); e.g. make bench BENCH_ARGS='--runs 1 --only boot,gzip'
BENCH_ARGS ?=
bench: build ; @python3 bench/run.py build/trapeze $(BENCH_ARGS)

# Fork-heavy work in guests of 2 vCPUs under both executors, whose output must be the same.
SOAK_MINUTES ?= 30
soak: build ; @python3 tests/guest/soak.py build/trapeze --minutes $(SOAK_MINUTES)

# The fuzzers: a few seconds each as part of the tests, longer by `make fuzz`. Built by clang with
# AddressSanitizer and UndefinedBehaviorSanitizer.
fuzz-short fuzz: setup
	@tools/install_packages $(FUZZ_PACKAGES)
	@cmake --preset fuzz -DTRAPEZE_PCH=ON -DTRAPEZE_FUZZ_SECONDS=$(if $(filter fuzz,$@),$(FUZZ_SECONDS),3) >build-fuzz.log 2>&1 \
	  || { cat build-fuzz.log; exit 1; }
	@rm -f build-fuzz.log
	@cmake --build build-fuzz --target fuzzers -j $(JOBS)
	@ctest --test-dir build-fuzz --output-on-failure -L fuzz -j $(JOBS)

clean: ; rm -rf build build-*

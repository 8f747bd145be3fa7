# SPDX-License-Identifier: Apache-2.0
# Targets that run something: tests, checks, other compilers, the demonstration.
.PHONY: test test-long long-thread long-address check sanitize sanitize-address sanitize-thread clang cross demo
PARALLEL = $(if $(findstring jobserver,$(MAKEFLAGS)),,-j$(JOBS))
BUILD_TESTS = @$(MAKE) -s --no-print-directory KERNELS=$(KERNELS) $(PARALLEL)

needs:
	@printf '#include <hwloc.h>\n#include <sodium.h>\n' | $(CC) $(CPPFLAGS) -E - >/dev/null 2>&1 || tools/bootstrap

## test             builds and runs all tests, one after another; T="reduce topo" picks some
test: needs
	$(BUILD_TESTS) all tests
	@tests/check/run $(BUILD) $(T)
## test/NAME        builds and runs tests/test_NAME.c
test/%: $(BUILD)/tests/test_%
	$<
## test-long        the same with more rounds and larger matrices; and what CI has no time for under the sanitizers
LONG_THREAD := tcp_faults launch perf_run exit cycle algorithms
LONG_ADDRESS := launch perf_run exit cycle algorithms algorithm_proofs fake_gpu_tune fake_gpu_suspend
test-long: needs
	$(BUILD_TESTS) all tests
	@CHOIR_TEST_LONG=1 CHOIR_TEST_SECONDS=1800 tests/check/run $(BUILD) $(T)
	$(if $(T),,@$(MAKE) --no-print-directory sanitize-thread T="$(LONG_THREAD)")
	$(if $(T),,@$(MAKE) --no-print-directory sanitize-address T="$(LONG_ADDRESS)")
long-thread:
	@echo $(LONG_THREAD)
long-address:
	@echo $(LONG_ADDRESS)

## test-gpu         drawn operations, graphs and faults on the GPUs present
## test-gpu-sanitizer  a short part of them under compute-sanitizer; TOOLS="memcheck racecheck" picks tools
.PHONY: test-gpu test-gpu-sanitizer
ifneq ($(CUDA_H),)
GPU_TESTS := $(patsubst tests/gpu/%.c,$(BUILD)/tests/%,$(sort $(wildcard tests/gpu/test_*.c)))
$(GPU_TESTS) $(BUILD)/tests/overrun: $(BUILD)/tests/%: $(BUILD)/obj/tests/gpu/%.o $(BUILD)/obj/tests/gpu/gpu.o $(TEST_LIB) $(BUILD)/libchoir_internal.a
	@mkdir -p $(@D)
	$(CC) -o $@ $^ $(LIBS) $(LDFLAGS)
$(BUILD)/obj/tests/gpu/%.o: CPPFLAGS += -isystem $(dir $(CUDA_H))
test-gpu: needs
	$(BUILD_TESTS) all $(GPU_TESTS)
	@tests/check/run $(BUILD) $(or $(T),$(patsubst $(BUILD)/tests/test_%,%,$(GPU_TESTS)))
test-gpu-sanitizer: needs
	$(BUILD_TESTS) all $(GPU_TESTS) $(BUILD)/tests/overrun
	@tests/check/gpu_sanitizer $(BUILD) || [ $$? = 77 ]
else
test-gpu test-gpu-sanitizer:
	@echo "skipped $@: this library is built without CUDA"
endif

## test-nccl-tests  nccl-tests' own programs, in the folder NCCL_TESTS, on libnccl.so.2; ARGS=--short, ARGS=--times
.PHONY: test-nccl-tests
test-nccl-tests: needs
	$(BUILD_TESTS) all
	@tests/gpu/nccl_tests -b $(BUILD) $(ARGS) || [ $$? = 77 ]

# The tests of GPUs on a driver of their own, where there is no GPU: a libcuda.so.1 that runs kernels on CPU threads, and a program
# that runs one of them with it.
ifneq ($(CUDA_H),)
FAKE_CUDA := $(BUILD)/tests/fake/libcuda.so.1
FAKE_OBJ  := $(patsubst %,$(BUILD)/obj/%.o,$(basename $(wildcard tests/fake_cuda/*.c tests/fake_cuda/*.cc)))
$(BUILD)/obj/tests/fake_cuda/%.o: CPPFLAGS += -isystem $(dir $(CUDA_H))
$(BUILD)/obj/tests/fake_cuda/%.o: tests/fake_cuda/%.cc
	@mkdir -p $(@D)
	$(CXX) $(CPPFLAGS) -std=c++17 $(OPT) $(WARN) -ffp-contract=off -fPIC -fvisibility=hidden -MMD -MP -c $< -o $@
$(FAKE_CUDA): $(FAKE_OBJ)
	@mkdir -p $(@D)
	$(CXX) -shared -Wl,-soname,libcuda.so.1 -o $@ $^ -lpthread $(LDFLAGS)
$(BUILD)/tests/test_fake_cuda_device: | $(BUILD)/tests/test_cuda_device
$(filter $(BUILD)/tests/test_fake_%,$(TESTS)): | $(FAKE_CUDA) $(GPU_TESTS)
endif

## check            rules of the house: dependencies, documented headers, exported symbols, format
check: needs
	$(BUILD_TESTS) all
	@tests/check/all $(BUILD)

## format           rewrites the sources as .clang-format says (clang-format 14)
.PHONY: format
format:
	clang-format -i $$(git ls-files '*.[ch]' '*.cc' '*.cu' '*.cuh')

## docs/knobs.md    the page of settings, from the table of knobs
.PHONY: docs/knobs.md
docs/knobs.md: $(BUILD)/bin/choir-info
	$< --knobs --markdown >$@
## sanitize         the tests under the address, undefined and thread sanitizers; T= picks some
sanitize: sanitize-address sanitize-thread
# Sanitizers make the compiler warn of paths that do not exist: no -Werror here.
sanitize-address:
	$(BUILD_TESTS) BUILD=build-asan WARN= OPT='-O1 -g -fsanitize=address,undefined \
	    -fno-sanitize-recover=undefined -fno-omit-frame-pointer' LDFLAGS='-fsanitize=address,undefined' all tests
	@ASAN_OPTIONS=$${ASAN_OPTIONS:-detect_leaks=1} UBSAN_OPTIONS=print_stacktrace=1 tests/check/run build-asan $(T)
# The thread sanitizer cannot place its shadow where the kernel randomises too widely. Tests start ranks from processes
# without threads; those that fork with threads, to see what a child may do, are not watched in the child.
sanitize-thread:
	$(BUILD_TESTS) BUILD=build-tsan WARN=-Wno-tsan OPT='-O1 -g -fsanitize=thread' LDFLAGS=-fsanitize=thread all tests
	@TSAN_OPTIONS=$${TSAN_OPTIONS:-halt_on_error=1 die_after_fork=0} $(shell setarch -R true 2>/dev/null && echo setarch -R) \
	    tests/check/run build-tsan $(or $(T),$(shell tests/check/threaded))

## clang            everything, built by clang
clang:
ifeq ($(shell command -v clang),)
	@echo "skipped clang: not installed"
else
	$(BUILD_TESTS) CC=clang BUILD=build-clang all tests
endif
## cross            everything, compiled for aarch64; tests of pure code run where qemu-aarch64 is found
cross:
	@tests/check/cross || [ $$? = 77 ]

## demo             trains a text model on 4 ranks, then sweeps all_reduce over shm and tcp
demo: needs
	$(BUILD_TESTS) all
	@tests/check/demo $(BUILD)

# SPDX-License-Identifier: Apache-2.0
# make, make test, make test/NAME, make demo, make install; `make help` lists the rest.
ifeq ($(origin CC),default)
CC       := gcc
endif
ifeq ($(origin CXX),default)
CXX      := g++
endif
BUILD    ?= build
PREFIX   ?= /usr/local
LIBDIR   ?= $(PREFIX)/lib
OPT      ?= -O3 -g
WARN     ?= -Wall -Wextra -Wshadow -Wconversion -Werror
JOBS     ?= $(shell nproc)
CPPFLAGS += -D_GNU_SOURCE -DCHOIR_BUILDING -Iinclude -Isrc -I.
# No contraction to fused multiply-add: results are equal on all processors.
CFLAGS_ALL = -std=c11 $(OPT) $(WARN) -ffp-contract=off -fPIC -fvisibility=hidden -MMD -MP $(CFLAGS)
# Plug-ins find the builder in the program that loads them.
EXPORT    = -rdynamic
LIBS     ?= -lhwloc -lsodium -lpthread -ldl -lm
VERSION  := $(shell awk '/define CHOIR_VERSION_(MAJOR|MINOR|PATCH)/ { v = v s $$3; s = "." } END { print v }' include/choir.h)
SONAME   := libchoir.so.$(firstword $(subst ., ,$(VERSION)))

.DEFAULT_GOAL := all
include src/cuda/cuda.mk

LIB_SRC  := $(filter-out $(CUDA_LEFT_OUT),$(sort $(wildcard src/*/*.c algorithms/*.c transports/*/*.c)))
LIB_OBJ  := $(LIB_SRC:%.c=$(BUILD)/obj/%.o) $(CUDA_OBJ)
TOOLS    := $(patsubst tools/%.c,$(BUILD)/bin/%,$(sort $(wildcard tools/choir-*.c)))
PERF     := $(patsubst perf/%.c,$(BUILD)/bin/%,$(sort $(wildcard perf/*_perf.c)))
PERF_LIB := $(patsubst %.c,$(BUILD)/obj/%.o,$(sort $(wildcard perf/lib/*.c)))
EXAMPLES := $(patsubst examples/%.c,$(BUILD)/bin/%,$(sort $(wildcard examples/*.c)))
TESTS    := $(patsubst tests/%.c,$(BUILD)/tests/%,$(sort $(wildcard tests/test_*.c)))
TEST_LIB := $(patsubst %.c,$(BUILD)/obj/%.o,$(sort $(wildcard tests/lib/*.c)))
ifneq ($(shell command -v $(CXX)),)
TESTS    += $(patsubst tests/%.cc,$(BUILD)/tests/%,$(wildcard tests/test_*.cc))
endif

.PHONY: all tests objects needs help
.SECONDARY:
## all (no target)  the library, the tools, the perf programs and the examples; CUDA_ARCH="80 90": for which GPUs, NVCC=: none
all: $(BUILD)/libchoir.so $(TOOLS) $(PERF) $(EXAMPLES)
	@echo "$(BUILD): $(CUDA_SAYS)"
## tests            builds the tests without running them
tests: $(TESTS)
objects: $(LIB_OBJ) $(TEST_LIB) $(PERF_LIB) $(patsubst %.c,$(BUILD)/obj/%.o,\
         $(wildcard tools/*.c tools/*/*.c tests/test_*.c perf/*_perf.c examples/*.c examples/*/*.c))

$(BUILD)/obj/%.o: %.c
	@mkdir -p $(@D)
	$(CC) $(CPPFLAGS) $(CFLAGS_ALL) -c $< -o $@

# Tests and tools see hidden symbols, so they link the archive; users link libchoir.so.
$(BUILD)/libchoir_internal.a: $(LIB_OBJ) $(CUDA_STAMP)
	@rm -f $@
	ar rcs $@ $(LIB_OBJ)

$(BUILD)/libchoir.so: $(LIB_OBJ) src/choir.map $(CUDA_STAMP)
	$(CC) -shared -Wl,-soname,$(SONAME) -Wl,--version-script=src/choir.map -Wl,-z,defs,-z,nodelete \
	    -o $(BUILD)/libchoir.so.$(VERSION) $(LIB_OBJ) $(LIBS) $(LDFLAGS)
	ln -sf libchoir.so.$(VERSION) $(BUILD)/$(SONAME)
	ln -sf $(SONAME) $@

# A tool or example that grows has its further files in a folder of its name.
$(foreach t,$(TOOLS) $(EXAMPLES),$(eval $(t): $(patsubst %.c,$(BUILD)/obj/%.o,\
    $(wildcard tools/$(notdir $(t))/*.c examples/$(notdir $(t))/*.c))))
$(BUILD)/bin/%: $(BUILD)/obj/tools/%.o $(BUILD)/libchoir_internal.a
	@mkdir -p $(@D)
	$(CC) $(EXPORT) -o $@ $(filter %.o,$^) $(filter %.a,$^) $(LIBS) $(LDFLAGS)
$(BUILD)/bin/%: $(BUILD)/obj/perf/%.o $(PERF_LIB) $(BUILD)/libchoir_internal.a
	@mkdir -p $(@D)
	$(CC) $(EXPORT) -o $@ $^ $(LIBS) $(LDFLAGS)
$(BUILD)/bin/%: $(BUILD)/obj/examples/%.o $(BUILD)/libchoir_internal.a
	@mkdir -p $(@D)
	$(CC) $(EXPORT) -o $@ $(filter %.o,$^) $(filter %.a,$^) $(LIBS) $(LDFLAGS)
$(BUILD)/tests/%: $(BUILD)/obj/tests/%.o $(TEST_LIB) $(BUILD)/libchoir_internal.a
	@mkdir -p $(@D)
	$(CC) -o $@ $(filter %.o,$^) $(filter %.a,$^) $(LIBS) $(LDFLAGS)
$(BUILD)/tests/test_choir_plan: $(BUILD)/bin/choir-plan
# A GPU in miniature takes the place of functions of the library.
$(BUILD)/tests/test_staged: $(BUILD)/obj/tests/mock/cuda.o $(BUILD)/obj/tests/mock/mapped.o
$(BUILD)/tests/test_staged: LIBS += -Wl,--allow-multiple-definition
# An algorithm from outside: the public header, and no library.
$(BUILD)/tests/plugin/%.so: tests/plugin/%.c include/choir_algorithm.h include/choir.h
	@mkdir -p $(@D)
	$(CC) -std=c11 $(OPT) $(WARN) -fPIC -shared -fvisibility=hidden -Iinclude -o $@ $< $(LDFLAGS)
# A net plug-in, once for each version of NCCL's interface; v0 has none of the symbols.
NET_PLUGINS := $(patsubst %,$(BUILD)/tests/plugin/net_v%.so,0 8 9 10 11 12)
$(NET_PLUGINS): $(BUILD)/tests/plugin/net_v%.so: tests/plugin/net.c tests/plugin/net_tables.h transports/nccl-net/abi.h
	@mkdir -p $(@D)
	$(CC) $(CPPFLAGS) -std=c11 $(OPT) $(WARN) -fPIC -shared -fvisibility=hidden -DNET_VERSION=$* -o $@ $< $(LDFLAGS)
$(BUILD)/tests/test_nccl_net $(BUILD)/tests/test_nccl_net_faults: | $(NET_PLUGINS)
$(BUILD)/tests/test_plugin: | $(BUILD)/tests/plugin/algorithms.so $(filter %/choir-plan %/choir-info,$(TOOLS)) \
                              $(filter %/broadcast_perf %/all_reduce_perf,$(PERF))
# A C++ user's view: public headers and the shared library only.
$(BUILD)/tests/%: tests/%.cc $(wildcard include/*.h) $(BUILD)/libchoir.so
	@mkdir -p $(@D)
	$(CXX) -std=c++11 -Wall -Wextra -Wconversion -Werror -Iinclude -o $@ $< -L$(BUILD) -lchoir \
	    -Wl,-rpath,'$$ORIGIN/..' -Wl,--allow-shlib-undefined $(LDFLAGS)
# The kernels' arithmetic on the host: C++ that sees hidden symbols.
$(BUILD)/tests/test_cuda_%: tests/test_cuda_%.cc $(TEST_LIB) $(BUILD)/libchoir_internal.a
	@mkdir -p $(@D)
	$(CXX) $(CPPFLAGS) -std=c++17 $(OPT) $(WARN) -ffp-contract=off -MMD -MP -MF $@.d -MT $@ -o $@ $< \
	    $(filter %.o,$^) $(filter %.a,$^) $(LIBS) $(LDFLAGS)
# The same cases on a GPU: make test/cuda_reduce_device, not among all tests.
NVCC     ?= nvcc
$(BUILD)/tests/test_cuda_reduce_device: tests/test_cuda_reduce.cc $(wildcard src/cuda/*.h src/cuda/kernel/*.cuh) \
                                        $(TEST_LIB) $(BUILD)/libchoir_internal.a
	@mkdir -p $(@D)
	$(NVCC) -x cu -std=c++17 -O3 -fmad=false -arch=sm_90 $(CPPFLAGS) -c -o $@.o $<
	$(NVCC) -o $@ $@.o $(filter %.o,$^) $(filter %.a,$^) $(LIBS)

include shims/nccl/nccl.mk perf/targets.mk tests/check/targets.mk tools/install.mk

.PHONY: clean
clean:
	rm -rf $(BUILD)

help:
	@sed -n 's/^## /  make /p' Makefile perf/targets.mk tests/check/targets.mk tools/install.mk

-include $(shell find $(BUILD) $(KERNELS) -name '*.d' 2>/dev/null)

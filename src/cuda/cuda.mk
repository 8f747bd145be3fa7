# SPDX-License-Identifier: Apache-2.0
# The CUDA half of the library: found by itself, left out where there is no nvcc or by `make NVCC=`. Kernels are compiled for the GPUs
# named in CUDA_ARCH and become bytes of the library; the driver is found at run time, so nothing of CUDA is linked.
# CUDA_ARCH="80 90 100" makes one library for several generations, with PTX of the last for what comes after it.
CUDA_HOME ?=
NVCC      ?= $(firstword $(wildcard $(CUDA_HOME:%=%/bin/nvcc) /usr/local/cuda/bin/nvcc) $(shell command -v nvcc))
CUDA_ARCH ?= 90
# Compiled kernels do not depend on the compiler of the rest: builds for sanitizers and other processors share one folder.
KERNELS   ?= $(BUILD)/cuda
# The toolkit's headers lie beside its nvcc, which may be a link, or with the system's.
NVCC_FILE := $(if $(NVCC),$(realpath $(shell command -v $(NVCC))))
CUDA_H    := $(if $(NVCC_FILE),$(firstword $(wildcard $(CUDA_HOME:%=%/include/cuda.h) \
                 $(NVCC_FILE:%/bin/nvcc=%/include/cuda.h) /usr/include/cuda.h)))

ifneq ($(CUDA_H),)
CUDA_KERNELS  := $(sort $(wildcard src/cuda/kernel/*.cu))
CUDA_FOLDER   := $(KERNELS)/sm_$(subst $() $(),_,$(strip $(CUDA_ARCH)))
CUDA_IMAGES   := $(CUDA_KERNELS:src/cuda/kernel/%.cu=$(CUDA_FOLDER)/%.image)
CUDA_LEFT_OUT := src/cuda/absent.c
CUDA_OBJ      := $(BUILD)/obj/src/cuda/images.o
CUDA_BUILT    := $(NVCC_FILE) $(CUDA_IMAGES)
CUDA_SAYS     := the library with CUDA kernels for sm_$(strip $(CUDA_ARCH)), by $(NVCC)
# Results are those of src/reduce, so no contraction to fused multiply-add here either.
NVCC_ALL       = -std=c++17 -O3 -fmad=false -Werror all-warnings -Iinclude -Isrc $(NVCCFLAGS)
CUDA_LAST     := $(lastword $(CUDA_ARCH))
CUDA_PTX      := -gencode arch=compute_$(CUDA_LAST),code=compute_$(CUDA_LAST)
# Compressed to a tenth: some 300 kernels lie in every program that is linked with the archive.
NVCC_GENCODE  := $(foreach a,$(CUDA_ARCH),-gencode arch=compute_$(a),code=sm_$(a)) \
                 $(if $(word 2,$(CUDA_ARCH)),$(CUDA_PTX)) -fatbin -Xfatbin -compress-all
else
# What only reads plans needs no toolkit; tests run kernels on the CPU with it.
CUDA_LEFT_OUT := $(filter-out src/cuda/absent.c src/cuda/form.c src/cuda/bind.c src/cuda/pair.c src/cuda/handover.c,$(wildcard src/cuda/*.c))
CUDA_BUILT    := without
CUDA_SAYS     := the host library, without CUDA: no nvcc with its cuda.h (set CUDA_HOME or NVCC)
endif

# What was built with another nvcc, for other GPUs or without either is linked anew.
CUDA_STAMP := $(BUILD)/obj/src/cuda/built
ifneq ($(file <$(CUDA_STAMP)),$(CUDA_BUILT))
$(shell mkdir -p $(dir $(CUDA_STAMP)))
$(file >$(CUDA_STAMP),$(CUDA_BUILT))
endif

# The system's own folder is searched anyway; named here it would come before that of another processor.
CUDA_FLAGS := $(if $(CUDA_H),-DCHOIR_HAVE_CUDA $(addprefix -isystem ,$(filter-out /usr/include/,$(dir $(CUDA_H)))))
$(BUILD)/obj/src/cuda/%.o: CPPFLAGS += $(CUDA_FLAGS)
$(BUILD)/obj/tests/test_cuda_device.o: CPPFLAGS += $(CUDA_FLAGS)
$(BUILD)/obj/tests/test_cuda_device.o: $(CUDA_STAMP)
ifneq ($(CUDA_H),)
# Moved into place when it is whole: two builds may make the same one.
$(CUDA_FOLDER)/%.image: src/cuda/kernel/%.cu $(NVCC_FILE)
	@mkdir -p $(@D)
	$(NVCC) $(NVCC_ALL) $(NVCC_GENCODE) -MD -MP -MF $(@:.image=.d) -MT $@ -o $@.$(notdir $(BUILD)) $<
	@mv $@.$(notdir $(BUILD)) $@
$(BUILD)/obj/src/cuda/images.s: $(CUDA_IMAGES) $(CUDA_STAMP) src/cuda/kernel/embed
	src/cuda/kernel/embed "$(strip $(CUDA_ARCH))" $(CUDA_IMAGES) >$@
$(BUILD)/obj/src/cuda/images.o: $(BUILD)/obj/src/cuda/images.s
	$(CC) -c $< -o $@
endif

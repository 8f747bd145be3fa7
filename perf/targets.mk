# SPDX-License-Identifier: Apache-2.0
# What the performance tools need beside the general rules; included by the Makefile.
MPICC ?= mpicc

.PHONY: perf-mpi no-mpicc
## perf-mpi         the perf programs beside an MPI library, for --vs mpi (MPICC=mpicc.mpich chooses one)
perf-mpi: $(if $(shell command -v $(MPICC)),$(PERF:%=%_mpi),no-mpicc)
no-mpicc:
	@echo "skipped perf-mpi: $(MPICC) is not installed (libopenmpi-dev or libmpich-dev)"
# Only these link MPI; the library never does. One folder per wrapper: their objects do not mix.
$(BUILD)/obj/perf/$(notdir $(MPICC))/mpi.o: perf/lib/mpi.c
	@mkdir -p $(@D)
	$(MPICC) $(CPPFLAGS) -DPERF_MPI $(CFLAGS_ALL) -c $< -o $@
$(BUILD)/bin/%_perf_mpi: $(BUILD)/obj/perf/%_perf.o $(filter-out %/mpi.o,$(PERF_LIB)) \
                         $(BUILD)/obj/perf/$(notdir $(MPICC))/mpi.o $(BUILD)/libchoir_internal.a
	@mkdir -p $(@D)
	$(MPICC) -o $@ $^ $(LIBS) $(LDFLAGS)

# GPU memory, where the CUDA toolkit's header is; built anew where that changes.
ifneq ($(CUDA_H),)
$(BUILD)/obj/perf/lib/gpu.o: CPPFLAGS += -DPERF_CUDA -isystem $(dir $(CUDA_H))
endif
$(BUILD)/obj/perf/lib/gpu.o: $(CUDA_STAMP)

$(BUILD)/bin/compare_report: $(BUILD)/obj/perf/compare/report.o
	@mkdir -p $(@D)
	$(CC) -o $@ $^ -lm $(LDFLAGS)

# Tests that run programs, and the test of the driver's parts, which links them.
$(BUILD)/tests/test_compare: | $(BUILD)/bin/compare_report
$(BUILD)/tests/test_train: | $(filter %/hello %/train_text,$(EXAMPLES)) $(filter %/choir-run,$(TOOLS))
$(BUILD)/tests/test_perf_run: | $(PERF)
$(BUILD)/tests/test_perf: $(filter %/args.o %/blocks.o %/data.o %/json.o %/mpi.o %/names.o %/traffic.o,$(PERF_LIB))

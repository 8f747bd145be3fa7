# SPDX-License-Identifier: Apache-2.0
# make install: library, headers, tools, and what pkg-config and CMake need to find them. The stand-in for NCCL has a folder of its
# own, in no linker's or loader's path: nobody gets it who does not ask for it.
.PHONY: install uninstall
INSTALLED = $(LIBDIR)/libchoir.so.$(VERSION) $(LIBDIR)/$(SONAME) $(LIBDIR)/libchoir.so $(LIBDIR)/pkgconfig/choir.pc \
            $(LIBDIR)/cmake/choir/choirConfig.cmake $(LIBDIR)/cmake/choir/choirConfigVersion.cmake \
            $(LIBDIR)/choir/nccl/libnccl.so.2 $(LIBDIR)/choir/nccl/libnccl.so \
            $(patsubst %,$(PREFIX)/%,$(wildcard include/*.h)) $(patsubst $(BUILD)/%,$(PREFIX)/%,$(TOOLS))
FILL_IN = sed -e 's|@PREFIX@|$(PREFIX)|g' -e 's|@LIBDIR@|$(LIBDIR)|g' -e 's|@VERSION@|$(VERSION)|g' -e 's|@SONAME@|$(SONAME)|g'

## install          into PREFIX (/usr/local), LIBDIR (PREFIX/lib); DESTDIR is honoured
install: all
	install -d $(DESTDIR)$(PREFIX)/bin $(DESTDIR)$(PREFIX)/include $(DESTDIR)$(LIBDIR)/pkgconfig \
	    $(DESTDIR)$(LIBDIR)/cmake/choir $(DESTDIR)$(LIBDIR)/choir/nccl
	install -m 755 $(BUILD)/libchoir.so.$(VERSION) $(DESTDIR)$(LIBDIR)
	ln -sf libchoir.so.$(VERSION) $(DESTDIR)$(LIBDIR)/$(SONAME)
	ln -sf $(SONAME) $(DESTDIR)$(LIBDIR)/libchoir.so
	install -m 755 $(SHIM_NCCL) $(DESTDIR)$(LIBDIR)/choir/nccl
	ln -sf libnccl.so.2 $(DESTDIR)$(LIBDIR)/choir/nccl/libnccl.so
	install -m 644 include/*.h $(DESTDIR)$(PREFIX)/include
	install -m 755 $(TOOLS) $(DESTDIR)$(PREFIX)/bin
	$(FILL_IN) tools/choir.pc.in >$(DESTDIR)$(LIBDIR)/pkgconfig/choir.pc
	$(FILL_IN) tools/choirConfig.cmake.in >$(DESTDIR)$(LIBDIR)/cmake/choir/choirConfig.cmake
	$(FILL_IN) tools/choirConfigVersion.cmake.in >$(DESTDIR)$(LIBDIR)/cmake/choir/choirConfigVersion.cmake
## uninstall        removes what install put there
uninstall:
	rm -f $(addprefix $(DESTDIR),$(INSTALLED))

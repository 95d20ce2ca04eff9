# The entry points; everything else is in dev/.
.PHONY: help setup tree refresh series run test bench vm check

help:
	@echo "make run       set up, build, boot, serve real data in each mode, verify, show what it costs"
	@echo "make test      each behaviour once; FULL=1 all tests, T=pattern some of all; ARCH=arm64 a small kernel for arm64"
	@echo "make bench     both drivers in every data mode; FULL=1 GROWTH=1 T=pattern BASE=file.csv"
	@echo "make vm        CMD='...' in the VM; DRIVER=rust|c|none CONFIG=speed|test; no CMD: a shell"
	@echo "make check     style, lints, documentation, series = tree"
	@echo "make tree      assemble build/linux from series/ and the kernel directories"
	@echo "make refresh   write the commits of build/linux back"
	@echo "make series    write build/outgoing/, several series of mails; series/README asks first"
	@echo "make setup     fetch and install what is missing"

# With ARCH=arm64 also what that needs.
setup:
	@dev/setup $(ARCH)
tree: setup
	@dev/tree
refresh:
	@dev/stack refresh
series:
	@dev/stack series && dev/liburing/mails
# These take build/linux as it is if somebody works there.
run: setup
	@dev/tree --keep
	@dev/run
test: setup
	@dev/tree --keep
ifeq ($(ARCH),arm64)
	@dev/arm64 test
else
	@dev/test
endif
bench: setup
	@dev/tree --keep
	@dev/bench
check: setup
	@dev/tree --keep
	@dev/check
vm: export COMMAND = $(value CMD)
vm:
	@dev/vm "$$COMMAND"

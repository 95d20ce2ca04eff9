# shellcheck shell=bash
# Paths and settings that all scripts share; sourced, never run.

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
BUILD=${BUILD:-$ROOT/build}
CACHE=${XDG_CACHE_HOME:-$HOME/.cache}/ublk-rs
LINUX=${LINUX:-$BUILD/linux}
JOBS=${JOBS:-$(nproc)}

# shellcheck source=dev/pins
. "$ROOT/dev/pins"

export PATH="$CACHE/bin:$CACHE/venv/bin:$HOME/.cargo/bin:$PATH:/usr/sbin:/sbin"
export RUST_LIB_SRC="$CACHE/rust-src/library"
export LIBCLANG_PATH="/usr/lib/llvm-$LLVM_VERSION/lib"

# One compiler cache for all checkouts: paths below the checkout are made
# relative, and what a build prints about itself is fixed.
export CCACHE_DIR="$CACHE/ccache" CCACHE_BASEDIR="$BUILD" CCACHE_NOHASHDIR=1
export CCACHE_MAXSIZE=6G CCACHE_COMPRESS=1
export KBUILD_BUILD_TIMESTAMP=2026-01-01 KBUILD_BUILD_USER=ublk-rs
export KBUILD_BUILD_HOST=localhost

# A test must not depend on the caller's language or git settings.
export LC_ALL=C.UTF-8
export GIT_PAGER=cat

say() { printf '%s\n' "$*" >&2; }
die() { say "$(basename "$0"): $*"; exit 1; }

# kmake OUTPUT [make arguments]: the kernel's make, of build/linux.
# HOSTCC stays without ccache: rustc takes it as the name of a linker.
kmake() {
	local out=$1
	shift
	make -C "$LINUX" O="$out" LLVM="-$LLVM_VERSION" \
		CC="ccache clang-$LLVM_VERSION" -j"$JOBS" "$@"
}

# logged NAME COMMAND...: run it with output to build/log/NAME.log; when it
# fails, say what was run, where the log is, and its last lines.
logged() {
	local log=$BUILD/log/$1.log rc=0
	shift
	mkdir -p "$(dirname "$log")"
	"$@" >"$log" 2>&1 </dev/null || rc=$?
	[ $rc -eq 0 ] || failed "$rc" "$log" "$@"
	return $rc
}

# failed STATUS LOG COMMAND...: the report of a failure.
failed() {
	local rc=$1 log=$2
	shift 2
	say "failed ($rc): $*"
	say "log: $log"
	# Compilers' own words first, they are easily lost in a parallel build.
	{ grep -aE '(error|Error)(\[|:| )|undefined' "$log" | head -n 15 || true
	  echo ...; tail -n 15 "$log"; } | sed 's/^/    /' >&2
}

# guest_script RUN CONFIG DRIVER ACCEL COMMAND: write RUN/guest, which a guest runs
# first; quoting is left to bash.
guest_script() {
	cat >"$1/guest" <<EOF
#!/bin/bash
export RUN=$(printf %q "$1") ROOT=$(printf %q "$ROOT") BUILD=$(printf %q "$BUILD") LINUX=$(printf %q "$LINUX")
export CONFIG=$2 DRIVER=$3 VM_ACCEL=$4 HOME=/run/ublk-rs LC_ALL=C.UTF-8
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export KUBLK=\$BUILD/selftests/ublk/kublk
WORKDIR=$(printf %q "$PWD") COMMAND=$(printf %q "$5")
. "\$ROOT/dev/guest/init"
EOF
	chmod +x "$1/guest"
}

# One kernel build at a time in a checkout, and on a machine.
build_lock() {
	mkdir -p "$BUILD"
	exec 8>"$BUILD/.lock" 9>"${TMPDIR:-/tmp}/kernel-build.lock"
	flock -n 8 || { say "waiting for another build of this checkout"; flock 8; }
	flock -n 9 || { say "waiting for another kernel build"; flock 9; }
}

# The commit that the kernel with our options is compared with, as series/groups says:
# the kernel as it was, and behind it the patches that are for everybody.
base_commit() {
	local stem subject commit
	stem=$(sed -n 's/^# base: //p' "$ROOT/series/groups")
	subject=$(head -n 1 "$ROOT"/series/[0-9]*-"$stem".patch)
	commit=$(git -C "$LINUX" log --format='%H %s' | awk -v s="$subject" 'substr($0, 42) == s { print $1 }')
	[ -n "$commit" ] || die "no commit in $LINUX has the subject of $stem"
	git -C "$LINUX" rev-parse "$commit^"
}

# The bare repository with the kernel as it was; LINUX_SRC overrides.
base_repo() {
	if [ -n "${LINUX_SRC:-}" ]; then
		echo "$CACHE/base-src-$(realpath "$LINUX_SRC" | sha256sum | cut -c 1-12).git"
	else
		echo "$CACHE/base-$LINUX_VERSION.git"
	fi
}

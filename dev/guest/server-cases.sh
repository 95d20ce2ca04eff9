# dev/guest/server-cases.sh, to be sourced by the scripts of servers: cases that use the
# disk of a device, one after the other, and what they have in common. The script
# sets $server, its name, and has show_device(), to say what is known of $id, and
# clean_up().
# shellcheck shell=bash disable=SC2034,SC2154

data=4 # MiB of a device that are compared
failed=0 passed=0 failures=() why='' id='' dev='' pid=''
work=$(mktemp -d "${TMPDIR:-/tmp}/$server.XXXXXX")
store=$work/store mnt=$work/mnt log=$work/log

# A case ends at its first failure.
bad() { why=$*; return 1; }

# until_true SECONDS COMMAND...: wait for it
until_true() {
	local end=$((SECONDS + $1))
	until "${@:2}"; do
		[ $SECONDS -lt $end ] || return 1
		sleep 0.1
	done
}

gone() { ! [ -e "$1" ]; }
# A zombie is dead.
dead() { ! grep -qs '^State:[[:space:]]*[^ZX[:space:]]' "/proc/$1/status"; }

# io OPTIONS...: fio, with a flush at the end
io() {
	fio --name=io --filename="$dev" --direct=1 --ioengine=io_uring --iodepth=32 --end_fsync=1 "$@" >"$work/fio" 2>&1 ||
		bad "fio $*: $(grep -aE 'err=|verify:|error' "$work/fio" | head -n 3)"
}
verify() { io --verify=crc32c --verify_fatal=1 --verify_state_save=0 "$@"; }

# The first MiBs of the device are those of $work/data.
write_data() {
	dd if="$work/data" of="$dev" bs=256k oflag=direct conv=fsync,notrunc status=none 2>>"$log" ||
		bad "cannot write to $dev"
}
same_data() {
	local bs
	for bs in 16k 512k; do
		dd if="$dev" bs=$bs count=${data}M iflag=direct,count_bytes status=none 2>>"$log" |
			cmp -s - "$work/data" || bad "$1: the data differ, read by $bs" || return
	done
}

# rewrite FIRST: write what is there already, and read it, until $work/stop is
# there. Some requests may fail when the server dies, which the status tells; the
# data stay what they are.
rewrite() {
	local rc=0
	while gone "$work/stop"; do
		dd if="$work/data" of="$dev" bs=128k skip="$1" seek="$1" count=8 oflag=direct conv=notrunc || rc=1
		dd if="$dev" of=/dev/null bs=16k skip="$1" count=32 iflag=direct || rc=1
	done >/dev/null 2>&1
	return $rc
}

# run FUNCTION ARGUMENTS...: a case
run() {
	local name="${*//on_/}" started=$SECONDS
	# shellcheck disable=SC2254
	case $name in ${CASES:-*}) ;; *) return ;; esac
	echo "ublk-rs: $server $name" >/dev/kmsg
	why='' id='' dev='' pid=''
	: >"$log"
	# Each case makes its own files; those of all have not enough room.
	find "$store" -mindepth 1 -maxdepth 1 ! -name lost+found -exec rm -rf {} +
	if "$@"; then
		echo "ok $name ($((SECONDS - started)) s)"
		passed=$((passed + 1))
		return
	fi
	echo "not ok $name ($((SECONDS - started)) s): $why"
	sed 's/^/    /' "$log" | tail -n 5
	[ -z "$id" ] || show_device | sed 's/^/    /'
	failed=$((failed + 1))
	failures+=("$name: $why")
	clean_up
}

# begin SIZE: $store, for backing files, $work/data and $work/tree. Direct I/O wants a
# file system on a block device: it then takes the pages of a request to another
# driver.
begin() {
	mkdir -p "$store" "$mnt" "$work/tree"
	truncate -s "$1" "$work/disk"
	mkfs.ext4 -q -F -b 4096 "$work/disk" && disk=$(losetup -f --show "$work/disk") && mount "$disk" "$store" || exit 1
	head -c ${data}M /dev/urandom >"$work/data"
	head -c 3M "$work/data" >"$work/tree/large"
	head -c 300000 "$work/data" | split -b 7001 -a 4 - "$work/tree/s"
}

# end CASE: the last case, when the backing files are gone; then say what came out
end() {
	umount "$store"
	losetup -d "$disk"
	run "$1"
	[ $failed -eq 0 ] || printf 'FAILED: %s\n' "${failures[@]}"
	echo "# Totals: pass:$passed fail:$failed skip:0"
	rm -rf "$work"
	[ $failed -eq 0 ] && [ $passed -ne 0 ]
}

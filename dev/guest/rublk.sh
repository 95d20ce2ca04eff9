#!/bin/bash
# dev/guest/rublk.sh [all]: the server rublk as it comes from crates.io, in the guest, on
# the driver that is loaded. For each target with some sets of options: add,
# list, write and verify, where asked for kill the server and recover, delete,
# then look at the backing file without the driver. In the end nothing may be
# left. Exits 0 only if all of it held. Without "all" or CASES, each option of a
# target is there once, not with all others.
#
#   RUBLK=path of rublk
#   CASES=pattern   only some, e.g. 'loop*-z*'
set -u

all=${1:-${CASES:+all}}
server=rublk
# shellcheck source=dev/guest/server-cases.sh
. "$ROOT/dev/guest/server-cases.sh"
case $DRIVER in c) module=ublk_drv ;; *) module=ublk_rs ;; esac

field() { sed -n "s/.*$1 \([^ ]*\).*/\1/p" | head -n 1; }
# What hangs must not hang the test.
rublk() { timeout -k 5 120 "$RUBLK" "$@" 2>&1 </dev/null; }
state() { rublk list -n "$id" | field state; }
state_is() { [ "$(state)" = "$1" ]; }

# add TARGET OPTIONS...: the new device is $id, $dev, $daemon and $flags
add() {
	local out
	id='' dev='' daemon='' flags=0
	out=$(rublk add "$@") || bad "add: $out" || return
	id=$(sed -n 's/^dev id \([0-9]*\):.*/\1/p' <<<"$out")
	daemon=$(field 'daemon pid' <<<"$out")
	flags=$(field flags <<<"$out")
	[ -n "$id" ] && [ -n "$daemon" ] && [ -n "$flags" ] || bad "add says: $out" || return
	dev=/dev/ublkb$id
	until_true 10 test -b "$dev" || bad "no $dev" || return
	state_is LIVE || bad "added, but $(state)"
}

# listed ID TARGET: list shows the device, by itself and among all
listed() {
	local out
	for out in "$(rublk list -n "$1")" "$(rublk list)"; do
		grep -q "^dev id $1: " <<<"$out" && grep -q "\"name\":\"$2\"" <<<"$out" ||
			bad "list says: $out" || return
	done
}

# nothing_of ID DAEMON: nodes, server and record of a device are gone
nothing_of() {
	until_true 10 gone "/dev/ublkb$1" || bad "/dev/ublkb$1 is still there" || return
	until_true 10 gone "/dev/ublkc$1" || bad "/dev/ublkc$1 is still there" || return
	until_true 10 dead "$2" || bad "the server is still there" || return
	gone "/run/ublksrvd/$(printf %04d "$1").json" || bad "its file in /run/ublksrvd is still there"
}

del() {
	local out
	# udev may have it open.
	udevadm settle --timeout=30
	out=$(rublk del -n "$id" "$@") || bad "del $*: $out" || return
	nothing_of "$id" "$daemon"
}

# die_and_recover [FILE]: kill -9 the server, have a new one take over. A read
# in between waits for it, and gets what the file begins with.
die_and_recover() {
	local out held
	kill -9 "$daemon" || bad "no server to kill" || return
	until_true 20 state_is QUIESCED || bad "the server is dead, the device $(state)" || return
	dd if="$dev" of="$work/held" bs=64k count=2 iflag=direct status=none 2>>"$log" &
	held=$!
	sleep 0.5
	! dead $held || bad "a read did not wait for the new server" || return
	out=$(rublk recover -n "$id") || bad "recover: $out" || return
	[ "$(field state <<<"$out")" = LIVE ] || bad "recover says: $out" || return
	daemon=$(field 'daemon pid' <<<"$out")
	until_true 30 dead $held || bad "a read still waits for the new server" || return
	wait $held || bad "the read that waited for the new server has failed" || return
	[ -z "${1:-}" ] || cmp -s -n 128K "$work/held" "$1" || bad "the read that waited got other data"
}

# die_busy: the same, with requests on their way
die_busy() {
	local jobs=() p rc=0
	rm -f "$work/stop"
	for p in 0 8 16 24; do
		rewrite $p &
		jobs+=($!)
	done
	sleep 1
	die_and_recover "$@" || rc=$?
	[ $rc -ne 0 ] || sleep 0.5
	touch "$work/stop"
	for p in "${jobs[@]}"; do
		until_true 30 dead "$p" || rc=2
	done
	[ $rc -ne 2 ] || bad "${why:-requests hang after recovery}"
	return $rc
}

# files [recover]: a file system on the device, used and checked
files() {
	mkfs.ext4 -q -F "$dev" >>"$log" 2>&1 || bad "mkfs.ext4 fails" || return
	mount -t ext4 "$dev" "$mnt" || bad "cannot mount $dev" || return
	cp -r "$work/tree" "$mnt/a" && sync -f "$mnt" || bad "cannot copy files" || return
	if [ "${1:-}" = recover ]; then
		die_and_recover || return
		cp -r "$work/tree" "$mnt/b" && sync -f "$mnt" || bad "cannot copy files after recovery" || return
	fi
	umount "$mnt" && mount -t ext4 "$dev" "$mnt" || bad "cannot mount $dev again" || return
	diff -r "$work/tree" "$mnt/a" >/dev/null || bad "the files differ" || return
	[ "${1:-}" != recover ] || diff -r "$work/tree" "$mnt/b" >/dev/null ||
		bad "the files copied after recovery differ" || return
	umount "$mnt" || bad "cannot unmount" || return
	e2fsck -fn "$dev" >>"$log" 2>&1 || bad "e2fsck complains"
}

# discard: a piece discarded, then one zeroed; next to them the data stay
discard() {
	local how
	for how in '' -z; do
		write_data || return
		# shellcheck disable=SC2086
		blkdiscard $how -o 1M -l 2M "$dev" || bad "blkdiscard $how fails" || return
		dd if="$dev" bs=1M count=4 iflag=direct status=none >"$work/read"
		cmp -s -n 1M "$work/read" "$work/data" && cmp -s -i 1M -n 2M "$work/read" /dev/zero &&
			cmp -s -i 3M -n 1M "$work/read" "$work/data" || bad "blkdiscard $how: wrong data" || return
	done
}

# The cases ---------------------------------------------------------------------

on_null() {
	add null "$@" || return
	listed "$id" null || return
	io --rw=randrw --bs=4k --size=4M --io_size=2M || return
	io --rw=rw --bs=256k --size=16M || return
	blkdiscard -o 1M -l 1M "$dev" || bad "blkdiscard fails" || return
	case " $* " in *' -r '*)
		die_busy || return
		io --rw=randrw --bs=4k --size=4M --io_size=1M || return
	esac
	del
}

on_loop() {
	local file=$work/store/loop
	rm -f "$file"
	truncate -s 48M "$file"
	add loop -f "$file" "$@" || return
	listed "$id" loop || return
	verify --rw=randwrite --bs=4k --offset=16M --size=2M || return
	verify --rw=write --bs=256k --offset=24M --size=8M || return
	discard || return
	with_data "$@" || return
	cmp -s -n ${data}M "$file" "$work/data" || bad "the file has other data than the device"
}

on_qcow2() {
	local file=$work/store/qcow2 rc
	rm -f "$file"
	qemu-img create -q -f qcow2 "$file" 48M || bad "qemu-img create fails" || return
	add qcow2 -f "$file" "$@" || return
	listed "$id" qcow2 || return
	verify --rw=randwrite --bs=4k --offset=16M --size=2M || return
	verify --rw=write --bs=256k --offset=24M --size=8M || return
	with_data "$@" || return
	qemu-img check -q "$file" >>"$log" 2>&1
	rc=$?
	[ $rc -eq 0 ] || bad "qemu-img check: $rc" || return
	qemu-img convert -O raw "$file" "$work/raw" || bad "qemu-img convert fails" || return
	cmp -s -n ${data}M "$work/raw" "$work/data" || bad "the image has other data than the device"
}

# zone NUMBER: type and condition of a zone, as blkzone says
zone() {
	blkzone report -o $(($1 * 8192)) -c 1 "$dev" 2>>"$log" |
		sed -n 's/.*wptr \([^ ]*\) .*zcond: *[0-9]*(\([a-z]*\)).*\[type: [0-9]*(\([A-Z_]*\))\]/\3 \2 \1/p'
}
zone_is() {
	local is
	is=$(zone "$1")
	[ "$is" = "$2" ] || bad "zone $1 is '$is', not '$2'"
}

# 16 zones of 4 MiB, the first two of them conventional.
on_zoned() {
	add zoned --size 64MiB --zone-size 4MiB --pre-alloc-size 4MiB --conv-zones 2 "$@" || return
	listed "$id" zoned || return
	[ "$(blkzone report "$dev" | grep -c zcond)" = 16 ] || bad "blkzone report: not 16 zones" || return
	zone_is 1 'CONVENTIONAL nw 0x000000' && zone_is 2 'SEQ_WRITE_REQUIRED em 0x000000' || return
	blkzone open -o 16384 -c 1 "$dev" && zone_is 2 'SEQ_WRITE_REQUIRED oe 0x000000' || bad "${why:-open}" || return
	dd if="$work/data" of="$dev" bs=64k count=2 seek=128 oflag=direct conv=notrunc status=none 2>>"$log" ||
		bad "cannot write to a zone" || return
	zone_is 2 'SEQ_WRITE_REQUIRED oe 0x000100' || return
	# Not at the write pointer.
	! dd if="$work/data" of="$dev" bs=64k count=1 seek=131 oflag=direct conv=notrunc status=none 2>/dev/null ||
		bad "a write that is not at the write pointer succeeds" || return
	blkzone close -o 16384 -c 1 "$dev" && zone_is 2 'SEQ_WRITE_REQUIRED cl 0x000100' || bad "${why:-close}" || return
	blkzone finish -o 16384 -c 1 "$dev" && zone_is 2 'SEQ_WRITE_REQUIRED fu 0x002000' || bad "${why:-finish}" || return
	blkzone reset -o 16384 -c 1 "$dev" && zone_is 2 'SEQ_WRITE_REQUIRED em 0x000000' || bad "${why:-reset}" || return
	verify --rw=write --bs=64k --zonemode=zbd --offset=8M --size=16M --iodepth=8 || return
	blkzone reset "$dev" && zone_is 3 'SEQ_WRITE_REQUIRED em 0x000000' || bad "${why:-reset of all}" || return
	verify --rw=randwrite --bs=16k --zonemode=zbd --offset=8M --size=16M --io_size=4M --iodepth=1 || return
	verify --rw=randwrite --bs=4k --size=2M || return
	del
}

# How many zones that are written in order hold something.
zones_in_use() { blkzone report "$dev" | grep SEQ_WRITE_REQUIRED | grep -vc 'zcond: *1(em)'; }

# A file system that writes to the zones in order, and resets those that it has emptied.
on_zoned_files() {
	local round used=0
	add zoned --size 512MiB --zone-size 4MiB --pre-alloc-size 4MiB --conv-zones 6 "$@" || return
	mkfs.f2fs -q -f -m "$dev" >>"$log" 2>&1 || bad "mkfs.f2fs fails" || return
	for round in 1 2 3; do
		mount -t f2fs "$dev" "$mnt" || bad "cannot mount $dev, time $round" || return
		cp -r "$work/tree" "$mnt/$round" || bad "cannot copy files" || return
		fio --name=files --directory="$mnt" --nrfiles=4 --size=24M --bs=64k --rw=write --verify=crc32c \
			--verify_fatal=1 --verify_state_save=0 --end_fsync=1 >"$work/fio" 2>&1 ||
			bad "fio: $(grep -aE 'err=|verify:|error' "$work/fio" | head -n 3)" || return
		sync -f "$mnt"
		used=$(zones_in_use)
		[ "$used" -ge 8 ] || bad "$used zones hold 24 MiB and more" || return
		umount "$mnt" && mount -t f2fs "$dev" "$mnt" || bad "cannot mount $dev again" || return
		diff -r "$work/tree" "$mnt/$round" >/dev/null || bad "the files differ" || return
		[ $round = 1 ] || rm -r "${mnt:?}/$((round - 1))" || bad "cannot remove files" || return
		umount "$mnt" || bad "cannot unmount" || return
		# Write pointers as well.
		fsck.f2fs -f --dry-run "$dev" >"$work/fsck" 2>&1 && ! grep -q '\[Fail\]' "$work/fsck" ||
			bad "fsck.f2fs: $(grep -aE 'Fail|ASSERT|FIX' "$work/fsck" | head -n 3)" || return
	done
	mount -t f2fs "$dev" "$mnt" && rm -r "${mnt:?}"/* && umount "$mnt" || bad "cannot empty it" || return
	[ "$(zones_in_use)" -lt "$used" ] || bad "$used zones were in use, and $(zones_in_use) are" || return
	del
}

# A file system, then data, on a loop or qcow2 device; delete it.
with_data() {
	local recover=''
	case " $* " in *' -r '*) recover=recover ;; esac
	files $recover || return
	write_data || return
	same_data written || return
	if [ -n "$recover" ]; then
		die_busy "$work/data" || return
		same_data recovered || return
		verify --rw=randwrite --bs=4k --offset=16M --size=1M || return
		# Now of a server that has recovered itself.
		die_and_recover "$work/data" || return
		same_data 'recovered again' || return
	fi
	del
}

# Nothing can be written to a device that is read-only.
read_only() {
	cp "$work/data" "$store/loop"
	add loop -o -f "$store/loop" "$@" || return
	[ "$(blockdev --getro "$dev")" = 1 ] || bad "not read-only" || return
	! write_data || bad "read-only, but data were written" || return
	same_data "read-only" || return
	del --async
}

# Several devices at a time, one of them by number and without its server.
several() {
	local a b c
	add null -n 7 "$@" || return
	[ "$id" = 7 ] || bad "asked for number 7, got $id" || return
	a="$id $daemon"
	truncate -s 48M "$store/loop"
	add loop -f "$store/loop" "$@" || return
	b="$id $daemon"
	add null || return
	c="$id $daemon"
	listed "${a% *}" null && listed "${b% *}" loop && listed "${c% *}" null || return
	kill -9 "${a#* }"
	# Without recovery it is stopped, and waits for its deletion.
	until_true 20 gone /dev/ublkb7 || bad "the server is dead, /dev/ublkb7 is there" || return
	[ -e /dev/ublkc7 ] || bad "the server is dead, /dev/ublkc7 is gone" || return
	listed "${b% *}" loop || return
	udevadm settle --timeout=30
	rublk del -a >>"$log" || bad "del -a fails" || return
	# shellcheck disable=SC2086
	nothing_of $a && nothing_of $b && nothing_of $c
}

features() {
	local out f
	out=$(rublk features) || bad "features: $out" || return
	for f in ZERO_COPY USER_RECOVERY USER_COPY AUTO_BUF_REG; do
		grep -qw "$f" <<<"$out" || bad "no $f among the features: $out" || return
	done
}

# The end ------------------------------------------------------------------------

# After a failure, whatever is left would spoil the next case.
clean_up() {
	touch "$work/stop"
	! mountpoint -q "$mnt" || umount -l "$mnt"
	rublk del -a >>"$log"
	rm -f /run/ublksrvd/*
}

# also FUNCTION OPTIONS...: run() it if all are wanted
also() { [ "$all" != all ] || run "$@"; }

show_device() { rublk list -n "$id"; }

nothing_left() {
	local left
	left=$(compgen -G '/dev/ublk[bc]*'; ls -A /run/ublksrvd 2>/dev/null; pgrep -ax rublk)
	[ -z "$left" ] || bad "left: $left"
}

no_leak() {
	local leaks=/sys/kernel/debug/kmemleak i
	[ -w $leaks ] || return 0
	# Found once may be a pointer in a register; found twice is not.
	for i in 1 2; do
		sleep 1
		echo scan >$leaks
	done
	cat $leaks >"$log"
	[ ! -s "$log" ] || bad "kmemleak, pass $i"
}

unload() { rmmod $module 2>>"$log" || bad "$module: rmmod fails"; }

[ -x "${RUBLK:-}" ] || { echo "RUBLK=${RUBLK:-} is not there"; exit 1; }
begin 256M
echo "$("$RUBLK" --version), $DRIVER driver, Linux $(uname -r), ${VM_ACCEL:-}"

run features
run on_null
also on_null -q 2 -a
also on_null -u
also on_null -z
run on_null -z -a -q 2 -d 64
run on_null -r
also on_null -r -u
also on_null -r -z
also on_loop
also on_loop -a -q 2 --multi-cpus-affinity
also on_loop --buffered-io --mlock
also on_loop -z
also on_loop -z --buffered-io
run on_loop -z -a -q 2 -d 32
also on_loop -r
also on_loop -r -a -q 2
also on_loop -r -z
run on_loop -r -z -a -q 2
run on_qcow2
also on_qcow2 --buffered-io
also on_qcow2 -r
also on_zoned
run on_zoned -q 2
# Only the speed kernel has it.
if grep -qw f2fs /proc/filesystems; then also on_zoned_files; else echo "# no f2fs"; fi
also read_only
also read_only -z
run several
also several -z
run nothing_left
run no_leak
end unload

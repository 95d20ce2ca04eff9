#!/bin/bash
# dev/guest/fublk.sh [all]: our server in the guest, on the driver that is loaded. Each
# target in each mode of data that the driver has: written and verified, a file
# system, ended by SIGTERM and by others, killed and recovered, removed under load.
# In the end nothing may be left. Exits 0 only if all of it held. Without "all" most of
# that is in one mode of data only.
#
#   CASES=pattern   only some, e.g. 'file*auto*'
#   FUBLK=path      another one than that of dev/server
set -u

all=${1:-}
fublk=${FUBLK:-$BUILD/server/release/fublk}
server=fublk
# shellcheck source=dev/guest/server-cases.sh
. "$ROOT/dev/guest/server-cases.sh"
# shellcheck source=dev/guest/fublk-program.sh
. "$ROOT/dev/guest/fublk-program.sh"
# shellcheck source=dev/guest/fublk-mirror.sh
. "$ROOT/dev/guest/fublk-mirror.sh"
# shellcheck source=dev/guest/fublk-nbd.sh
. "$ROOT/dev/guest/fublk-nbd.sh"
# shellcheck source=dev/guest/fublk-qcow2.sh
. "$ROOT/dev/guest/fublk-qcow2.sh"
case $DRIVER in
c) module=ublk_drv modes=(auto copy) ;;
*) module=ublk_rs modes=(fused auto copy) ;;
esac

# What hangs must not hang the test.
fublk() { timeout -k 5 120 "$fublk" "$@" </dev/null; }
# Flush the device, on which nothing is dirty.
flush() { dd if=/dev/null of="$dev" conv=fsync,notrunc status=none 2>>"$log"; }
field() { fublk list --json "$id" | jq -r ".[0].$1"; }
state_is() { [ "$(field state)" = "$1" ]; }
# Has the device another server than $pid?
replaced() { state_is live && [ "$(field pid)" != "$pid" ]; }

# add ARGUMENTS...: the new device is $dev, $id; its server $pid
add() {
	dev=$(fublk add "$@" 2>"$work/err") || bad "add $*: $(cat "$work/err")" || return
	id=${dev#/dev/ublkb} pid=$(field pid)
	[ -b "$dev" ] && state_is live || bad "add says $dev, which is $(field state)" || return
	! dead "$pid" || bad "add says $dev, but its server is dead"
}

# refused STATUS WORDS ARGUMENTS...: it says so, in one line, and ends with that
refused() {
	local status=$1 words=$2 said rc=0
	said=$(fublk "${@:3}" 2>&1) || rc=$?
	[ $rc -eq "$status" ] || bad "${*:3}: status $rc: $said" || return
	case $said in *"$words"*) ;; *) bad "${*:3} says: $said" || return ;; esac
	[ "$(wc -l <<<"$said")" -eq 1 ] || bad "${*:3} says too much: $said"
}

# Nodes, server and record of the device are gone.
nothing_left_of_it() {
	local f
	for f in "$dev" "/dev/ublkc$id" "/run/fublk/$id.json" "/run/fublk/$id.log"; do
		until_true 10 gone "$f" || bad "$f is still there" || return
	done
	until_true 10 dead "$pid" || bad "the server is still there"
}

# ended COMMAND...: it ends the device
ended() {
	# udev may have it open.
	udevadm settle --timeout=30
	"$@" >"$work/err" 2>&1 || bad "$*: $(cat "$work/err")" || return
	nothing_left_of_it
}
del() { ended fublk del "$id"; }

# A file system on the device, used and checked.
files() {
	mkfs.ext4 -q -F "$dev" >>"$log" 2>&1 || bad "mkfs.ext4 fails" || return
	mount -t ext4 -o discard "$dev" "$mnt" || bad "cannot mount $dev" || return
	cp -r "$work/tree" "$mnt/a" && sync -f "$mnt" || bad "cannot copy files" || return
	cp -r "$work/tree" "$mnt/b" && rm -r "$mnt/a" && fstrim "$mnt" || bad "cannot trim" || return
	umount "$mnt" && mount -t ext4 "$dev" "$mnt" || bad "cannot mount $dev again" || return
	diff -r "$work/tree" "$mnt/b" >/dev/null || bad "the files differ" || return
	umount "$mnt" || bad "cannot unmount" || return
	e2fsck -fn "$dev" >>"$log" 2>&1 || bad "e2fsck complains"
}

# A piece discarded, one zeroed, one zeroed that keeps its room; the rest stays.
discard() {
	local how
	for how in 'blkdiscard -o 1M -l 1M' 'blkdiscard -z -o 1M -l 1M' 'fallocate -z -o 1M -l 1M' 'fallocate -p -o 1M -l 1M'; do
		write_data || return
		$how "$dev" || bad "$how fails" || return
		dd if="$dev" bs=1M count=4 iflag=direct status=none >"$work/read"
		cmp -s -n 1M "$work/read" "$work/data" && cmp -s -i 1M -n 1M "$work/read" /dev/zero &&
			cmp -s -i 2M -n 2M "$work/read" "$work/data" || bad "$how: wrong data" || return
	done
}

# killed_under_load ON_DEATH: kill -9 the server while there are requests, and
# recover. Requests fail or not, as ON_DEATH says; none of them hangs.
killed_under_load() {
	local jobs=() p rc=0 errors=0 out
	rm -f "$work/stop"
	for p in 0 8 16 24; do
		rewrite $p &
		jobs+=($!)
	done
	sleep 1
	kill -9 "$pid" || bad "no server to kill" || return
	until_true 20 dead "$pid" || bad "the server survives" || return
	if [ "$1" = fail ]; then
		until_true 20 state_is fail-io || bad "the server is dead, the device $(field state)" || return
		! dd if="$dev" of=/dev/null bs=4k count=1 iflag=direct 2>/dev/null || bad "a read without a server" || return
	else
		until_true 20 state_is quiesced || bad "the server is dead, the device $(field state)" || return
	fi
	out=$(fublk recover "$id" 2>&1) || bad "recover: $out" || return
	[ "$out" = "$dev" ] || bad "recover says: $out" || return
	out=$(fublk list --json "$id" | jq -r '.[0] | "\(.state) \(.pid)"')
	[ "${out% *}" = live ] && [ "${out#* }" != "$pid" ] || bad "recovered, but $out" || return
	pid=${out#* }
	sleep 0.5
	touch "$work/stop"
	for p in "${jobs[@]}"; do
		until_true 30 dead "$p" || { bad "requests hang after recovery"; return; }
		wait "$p" || errors=$((errors + 1))
	done
	[ "$1" != reissue ] || [ $errors -eq 0 ] || bad "$errors of 4 saw an error, although all is reissued" || return
	[ "$1" != fail ] || [ $errors -ne 0 ] || bad "nobody saw an error, although requests fail"
}

# The cases ---------------------------------------------------------------------

# null MODE OPTIONS...
null() {
	add --mode "$@" null --size 64M || return
	[ "$(blockdev --getsize64 "$dev")" = $((64 << 20)) ] || bad "wrong size" || return
	[ "$(fublk list --json | jq -r '.[].target[0]')" = null ] && fublk list | grep -q "^$dev *live " ||
		bad "list says: $(fublk list)" || return
	io --rw=randrw --bs=4k --size=8M --io_size=2M || return
	io --rw=rw --bs=256k --size=16M || return
	blkdiscard -o 1M -l 1M "$dev" || bad "blkdiscard fails" || return
	dd if="$dev" bs=1M count=4 iflag=direct status=none | cmp -s -n 4M - /dev/zero || bad "not all zeroes" || return
	del
}

# served: all that holds of every target that keeps data
served() {
	verify --rw=randwrite --bs=4k --offset=16M --size=2M || return
	verify --rw=write --bs=256k --offset=24M --size=8M || return
	verify --rw=randrw --bsrange=4k-512k --offset=32M --size=8M || return
	io --rw=randwrite --bs=16k --offset=16M --size=1M --sync=dsync || return
	discard || return
	files || return
	write_data || return
	same_data written
}

# file MODE TARGET_OPTIONS ADD_OPTIONS...: written, ended by SIGTERM, data in the file
file() {
	local file=$store/file
	rm -f "$file"
	truncate -s 48M "$file"
	# shellcheck disable=SC2086
	add --mode "$1" "${@:3}" file $2 "$file" || return
	[ "$(readlink -f "$(field 'target[-1]')")" = "$(readlink -f "$file")" ] || bad "list: $(field target)" || return
	served || return
	refused 5 "in use" add file "$file" || return
	ended kill "$pid" || return
	cmp -s -n ${data}M "$file" "$work/data" || bad "the file has other data than the device"
}

# stripe MODE CHUNK FILES: the data of the files, put together, are the device's
stripe() {
	local files=() i
	for ((i = 0; i < $3; i++)); do
		rm -f "$store/s$i"
		truncate -s $((48 / $3))M "$store/s$i"
		files+=("$store/s$i")
	done
	add --mode "$1" stripe --chunk "$2" "${files[@]}" || return
	[ "$(blockdev --getsize64 "$dev")" = $((48 << 20)) ] || bad "wrong size" || return
	served || return
	del || return
	python3 - "$2" "$work/data" "${files[@]}" <<'PYTHON' || bad "the files do not have what the device had"
import sys
chunk = int(sys.argv[1][:-1]) << 10
files = [open(f, "rb") for f in sys.argv[3:]]
data = open(sys.argv[2], "rb").read()
for n, at in enumerate(range(0, len(data), chunk)):
    assert files[n % len(files)].read(chunk) == data[at:at + chunk], n
PYTHON
}

# Another file has got the path: its data are not those of the device.
another_file() {
	cp "$work/data" "$store/file"
	add --mode "$mode" --on-death reissue file "$store/file" || return
	kill -9 "$pid"
	until_true 20 state_is quiesced || bad "the server is dead, the device $(field state)" || return
	cp "$store/file" "$store/other" && mv "$store/other" "$store/file"
	refused 1 "but another one" recover "$id" || return
	refused 1 "but another one" add --take-over --id "$id" file "$store/file" || return
	state_is quiesced || bad "refused, but the device is $(field state)" || return
	fublk recover --force "$id" >/dev/null || bad "recover --force fails" || return
	pid=$(field pid)
	same_data forced || return
	# From now on it is this one.
	kill -9 "$pid"
	until_true 20 state_is quiesced || bad "the server is dead, the device $(field state)" || return
	fublk recover "$id" >/dev/null || bad "recover fails" || return
	pid=$(field pid)
	del
}

# full MODE: no room is an error of the write, not of all flushes that come later
full() {
	local rc=0
	mkdir -p "$work/small" && mount -t tmpfs -o size=4M tmpfs "$work/small" || bad "no tmpfs" || return
	truncate -s 16M "$work/small/file"
	full_on "$1" || rc=1
	[ $rc -eq 0 ] || fublk del --all >>"$log" 2>&1
	umount "$work/small"
	return $rc
}
full_on() {
	add --mode "$1" file "$work/small/file" || return
	! dd if=/dev/zero of="$dev" bs=64k count=128 oflag=direct,sync conv=notrunc status=none 2>>"$log" ||
		bad "more is written than there is room for" || return
	blkdiscard -l 8M "$dev" || bad "blkdiscard fails" || return
	flush || bad "a flush fails, although its writers were told" || return
	del
}

# batches MODE: the driver has them, and each of its commands is about many requests
batches() {
	truncate -s 48M "$store/file"
	add --mode "$1" --batch on --queues 2 --depth 16 file "$store/file" || return
	field 'features[]' | grep -qx BATCH_IO || bad "no batches: $(field 'features|join(" ")')" || return
	verify --rw=randwrite --bs=4k --offset=16M --size=1M || return
	verify --rw=randrw --bsrange=4k-512k --offset=32M --size=4M || return
	discard || return
	del || return
	cmp -s -n 1M "$store/file" "$work/data" || bad "the file has other data than the device" || return
	# One tag, which is told and committed again and again.
	add --mode "$1" --batch on --depth 1 null 2>/dev/null || add --mode "$1" --batch on --depth 2 null || return
	io --rw=randread --bs=4k --size=1M || return
	del || return
	# More tags than the memory of a command has room for.
	add --mode "$1" --batch on --depth 512 null || return
	io --rw=randrw --bs=4k --size=16M --io_size=4M --iodepth=512 || return
	del
}

# A file on a block device, and the block device itself.
block() {
	local loop
	rm -f "$store/block"
	truncate -s 48M "$store/block"
	loop=$(losetup -f --show "$store/block") || bad "no loop device" || return
	add --mode "$1" file "$loop" && served && refused 5 "in use" add file "$loop" && del
	local rc=$?
	losetup -d "$loop"
	return $rc
}

# udev holds a lock of a disk while it looks at it: that is nobody who uses it.
block_watched() {
	local loop watch rc=0
	rm -f "$store/block"
	truncate -s 48M "$store/block"
	loop=$(losetup -f --show "$store/block") || bad "no loop device" || return
	flock -s "$loop" sleep 60 &
	watch=$!
	until_true 20 grep -q " $watch .*:$(stat -c %i "$loop") " /proc/locks || bad "no lock" || rc=1
	# Nor does it wait for us to end.
	[ $rc -ne 0 ] || { add --mode "$mode" file "$loop" && write_data && same_data watched; } || rc=1
	pkill -P $watch 2>/dev/null
	wait $watch 2>/dev/null
	[ $rc -ne 0 ] || flock -n -s "$loop" true || bad "we have it locked" || rc=1
	[ $rc -ne 0 ] || del || rc=1
	[ $rc -eq 0 ] || fublk del --all >>"$log" 2>&1
	losetup -d "$loop"
	return $rc
}

# recover MODE ON_DEATH ADD_OPTIONS...
recover() {
	local file=$store/recover i
	rm -f "$file"
	truncate -s 48M "$file"
	add --mode "$1" --on-death "$2" --queues 2 "${@:3}" file "$file" || return
	refused 5 "has a server" recover "$id" || return
	write_data || return
	for i in 1 2; do
		killed_under_load "$2" || return
		same_data "recovered, $i" || return
	done
	verify --rw=randwrite --bs=4k --offset=16M --size=1M || return
	del || return
	cmp -s -n ${data}M "$file" "$work/data" || bad "the file has other data than the device"
}

# Without recovery the device ends with its server, and del cleans up.
dies() {
	add --mode "$1" null --size 64M || return
	kill -9 "$pid"
	until_true 20 gone "$dev" || bad "the server is dead, $dev is there" || return
	state_is dead || bad "the server is dead, the device $(field state)" || return
	refused 1 "can not be recovered" recover "$id" || return
	del
}

# What was kept of a device is not taken for that of the next with its number.
stale() {
	add --id 4 --on-death reissue null || return
	kill -9 "$pid"
	until_true 20 state_is quiesced || bad "the server is dead, the device $(field state)" || return
	cp "/run/fublk/$id.json" "$work/json"
	del || return
	"$KUBLK" add -t null -n 4 -q 1 -d 8 -r 1 >>"$log" 2>&1 || bad "kublk add fails" || return
	cp "$work/json" "/run/fublk/$id.json"
	pkill -9 -x kublk
	until_true 20 state_is quiesced || bad "kublk is dead, the device $(field state)" || return
	[ "$(field target)" = null ] || bad "list: $(field target)" || return
	refused 1 "not made by fublk" recover 4 || return
	fublk del 4 || bad "del fails"
}

# removed MODE HOW: under load, which fails but does not hang
removed() {
	local load rc=0
	truncate -s 48M "$store/removed"
	add --mode "$1" --queues 2 file "$store/removed" || return
	fio --name=load --filename="$dev" --direct=1 --ioengine=io_uring --iodepth=64 --rw=randrw --bs=16k \
		--size=32M --time_based --runtime=60 --numjobs=2 >/dev/null 2>&1 &
	load=$!
	sleep 2
	! dead $load || bad "no load" || return
	case $2 in
	del) refused 5 "is in use" stop "$id" && del || rc=1 ;;
	stop) ended fublk stop --force "$id" || rc=1 ;;
	term) ended kill "$pid" || rc=1 ;;
	esac
	until_true 30 dead $load || bad "requests hang" || return
	return $rc
}

# A device grows with its file.
resize() {
	truncate -s 16M "$store/resize"
	add --mode "$1" --on-death reissue file "$store/resize" || return
	refused 1 "enlarge them first" resize "$id" 32M || return
	refused 1 "no multiple" resize "$id" 1000 || return
	refused 1 "would lose some" resize "$id" 8M || return
	fublk resize --force "$id" 8M && [ "$(blockdev --getsize64 "$dev")" = $((8 << 20)) ] || bad "can not shrink" || return
	truncate -s 32M "$store/resize"
	fublk resize "$id" || bad "resize fails" || return
	[ "$(blockdev --getsize64 "$dev")" = $((32 << 20)) ] || bad "wrong size" || return
	verify --rw=write --bs=64k --offset=24M --size=8M || return
	kill -9 "$pid"
	until_true 20 state_is quiesced || bad "the server is dead, the device $(field state)" || return
	truncate -s 16M "$store/resize"
	refused 1 "but what it was made of" recover "$id" || return
	truncate -s 32M "$store/resize"
	fublk recover "$id" >/dev/null || bad "recover fails" || return
	pid=$(field pid)
	del
}

read_only() {
	cp "$work/data" "$store/file"
	add --mode "$1" file --read-only "$store/file" || return
	[ "$(blockdev --getro "$dev")" = 1 ] || bad "not read-only" || return
	! write_data || bad "read-only, but data were written" || return
	same_data "read-only" || return
	del
}

# Blocks of 4 KiB: those of the device, and for direct I/O also where a file has holes.
large_blocks() {
	local loop rc=0
	rm -f "$store/blocks"
	truncate -s 64M "$store/blocks"
	loop=$(losetup -b 4096 -f --show "$store/blocks") || bad "no loop device" || return
	large_blocks_on "$loop" || rc=1
	! mountpoint -q "$mnt" || umount "$mnt"
	losetup -d "$loop"
	[ $rc = 0 ] || return
	rm "$store/blocks"
	qemu-img create -q -f qcow2 "$store/blocks" 32M && truncate -s 64M "$store/blocks" || bad "no image" || return
	loop=$(losetup -b 4096 -f --show "$store/blocks") || bad "no loop device" || return
	image_on_large_blocks "$loop" || rc=1
	losetup -d "$loop"
	return $rc
}
# An image has blocks of 512 bytes, which its disk can not discard.
image_on_large_blocks() {
	add --mode "$mode" qcow2 "$1" || return
	[ "$(cat "/sys/block/${dev#/dev/}/queue/discard_max_bytes")" = 0 ] || bad "it offers discard" || return
	write_data && same_data image || return
	del || return
	qemu-img check -q -f qcow2 "$1" || bad "qemu-img check complains"
}
large_blocks_on() {
	add --mode "$mode" file "$1" || return
	[ "$(blockdev --getss "$dev")" = 4096 ] || bad "a device of 4096 is one of $(blockdev --getss "$dev")" || return
	blkdiscard -z -o 1M -l 4096 "$dev" || bad "can not zero a block" || return
	del || return
	mkfs.ext4 -q -F "$1" && mount "$1" "$mnt" && truncate -s 16M "$mnt/sparse" || bad "no file" || return
	add --mode "$mode" file --direct "$mnt/sparse" || return
	[ "$(blockdev --getss "$dev")" = 4096 ] || bad "a sparse file has $(blockdev --getss "$dev")" || return
	write_data && same_data direct || return
	del
}

# Two servers for one device: one has it, and the device stays.
recover_twice() {
	local rc1=0 rc2=0 first
	add --mode "$mode" --on-death reissue null --size 64M || return
	kill -9 "$pid"
	until_true 20 state_is quiesced || bad "the server is dead, the device $(field state)" || return
	fublk recover "$id" >"$work/out1" 2>&1 &
	first=$!
	fublk recover "$id" >"$work/out2" 2>&1 || rc2=$?
	wait $first || rc1=$?
	[ $((rc1 == 0)) -ne $((rc2 == 0)) ] || bad "$rc1: $(cat "$work/out1"); $rc2: $(cat "$work/out2")" || return
	[ $((rc1 + rc2)) -eq 5 ] || bad "status $((rc1 + rc2)): $(cat "$work/out"[12])" || return
	pid=$(field pid)
	state_is live && ! dead "$pid" || bad "nobody serves it" || return
	io --rw=randread --bs=4k --size=1M || return
	del
}

# What waits for its next server may be in use.
stop_mounted() {
	local words="is in use"
	truncate -s 48M "$store/file"
	add --mode "$mode" --on-death "$1" file "$store/file" || return
	mkfs.ext4 -q -F "$dev" && mount "$dev" "$mnt" || bad "cannot mount" || return
	kill -9 "$pid"
	until_true 20 eval '! state_is live' || bad "the server is dead, the device live" || return
	refused 5 "$words" stop "$id" || return
	fublk recover "$id" >/dev/null || bad "recover fails" || return
	pid=$(field pid)
	umount "$mnt" || bad "cannot unmount" || return
	kill -9 "$pid"
	until_true 20 eval '! state_is live' || bad "the server is dead, the device live" || return
	ended fublk stop "$id"
}

# All of a server is in memory: what never ran must not have to be read.
locked() {
	local missing
	add --mode "$mode" null || return
	missing=$(awk '$2 ~ /x/ { file = $6; here = 1 } $2 !~ /x/ && /^[0-9a-f]+-/ { here = 0 }
		here && $1 == "Size:" { size = $2 }
		here && $1 == "Rss:" && $2 != size && file ~ /\// { print file, $2, "of", size }' "/proc/$pid/smaps")
	[ -z "$missing" ] || bad "not in memory: $missing" || return
	del
}

# A file system on the device is written with little memory.
pressure() {
	local hog i rc=0
	rm -f "$store/pressure"
	# What the disk is made of is memory, too: it has all of that already.
	head -c 96M /dev/zero >"$store/pressure" && sync -f "$store" || bad "no file" || return
	# shellcheck disable=SC2086
	add --mode "$1" $2 file $3 "$store/pressure" || return
	mkfs.ext4 -q -F "$dev" && mount "$dev" "$mnt" || bad "cannot mount" || return
	python3 -c '
import mmap, time
open("/proc/self/oom_score_adj", "w").write("1000")
free = int(next(l for l in open("/proc/meminfo") if l.startswith("MemAvailable")).split()[1]) << 10
hog = mmap.mmap(-1, max(0, free - (48 << 20)), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE)
print(len(hog) >> 20, flush=True)
time.sleep(600)' >"$work/hog" 2>&1 &
	hog=$!
	until_true 60 grep -q . "$work/hog" || bad "memory is not taken" || { kill $hog; return 1; }
	for ((i = 0; i < ${4:-1}; i++)); do
		# Several writers, more data than there is memory.
		for f in a b c; do
			{ timeout 120 dd if=/dev/zero of="$mnt/$f" bs=1M count=14 && timeout 120 cp "$work/data" "$mnt/$f.data"; } 2>>"$log" &
		done
		wait %2 %3 %4 2>/dev/null || rc=1
		timeout 120 sync -f "$mnt" || rc=1
		[ $rc -eq 0 ] || break
	done
	! dead $hog || rc=2
	kill $hog 2>/dev/null
	wait $hog 2>/dev/null
	[ $rc -ne 2 ] || bad "memory ran out" || return
	[ $rc -eq 0 ] || bad "writers hang or fail" || return
	echo 3 >/proc/sys/vm/drop_caches
	for f in a b c; do
		cmp -s "$mnt/$f.data" "$work/data" || bad "$f has other data" || return
	done
	umount "$mnt" || bad "cannot unmount" || return
	e2fsck -fn "$dev" >>"$log" 2>&1 || bad "e2fsck complains" || return
	del || return
	rm "$store/pressure"
}

# A tree on xfs, of which the device has to have 300 MiB.
xfs() {
	rm -f "$store/xfs"
	truncate -s 304M "$store/xfs"
	# shellcheck disable=SC2086
	add --mode "$1" --queues 2 file $2 "$store/xfs" || return
	mkfs.xfs -q -f "$dev" >>"$log" 2>&1 || bad "mkfs.xfs fails" || return
	mount -t xfs -o discard "$dev" "$mnt" || bad "cannot mount $dev" || return
	cp -r "$work/tree" "$mnt/a" && sync -f "$mnt" || bad "cannot copy files" || return
	cp -r "$work/tree" "$mnt/b" && rm -r "$mnt/a" && fstrim "$mnt" || bad "cannot trim" || return
	umount "$mnt" && mount -t xfs "$dev" "$mnt" || bad "cannot mount $dev again" || return
	diff -r "$work/tree" "$mnt/b" >/dev/null || bad "the files differ" || return
	umount "$mnt" || bad "cannot unmount" || return
	xfs_repair -n "$dev" >>"$log" 2>&1 || bad "xfs_repair complains" || return
	del || return
	rm "$store/xfs"
}

# faulty ERROR: what the server's ring says now and then, when memory is short
faulty() {
	local p
	command -v strace >/dev/null || return 0
	truncate -s 48M "$store/file"
	add --mode "$mode" --on-death reissue file "$store/file" || return
	strace -qq -f -p "$pid" -e trace=io_uring_enter -e inject=io_uring_enter:error="$1":when="$2" \
		-o /dev/null 2>>"$log" &
	p=$!
	until_true 20 grep -qE "TracerPid:[[:space:]]*[1-9]" "/proc/$pid/status" || bad "no strace" || return
	case $1 in
	# Nobody sees it.
	EAGAIN | EINTR) verify --rw=randwrite --bs=16k --size=1M || return ;;
	# Its ring is broken: the server ends, the device waits for the next one.
	*)
		dd if="$dev" of=/dev/null bs=4k count=64 iflag=direct status=none &
		until_true 20 dead "$pid" || bad "it goes on with a broken ring" || return
		until_true 20 state_is quiesced || bad "the device is $(field state)" || return
		fublk recover "$id" >/dev/null || bad "recover fails" || return
		pid=$(field pid)
		wait $! || bad "a read has failed" || return
		;;
	esac
	kill $p 2>/dev/null
	wait $p 2>/dev/null
	del
}

# Several devices at a time, ended all at once.
several() {
	local a b
	truncate -s 48M "$store/a" "$store/b"
	add --mode "$1" file "$store/a" && a=$pid && add --mode "$1" file "$store/b" && b=$pid || return
	[ "$(fublk list --json | jq length)" = 2 ] || bad "list: $(fublk list)" || return
	udevadm settle --timeout=30
	fublk del --all || bad "del --all fails" || return
	pid=$a nothing_left_of_it && pid=$b nothing_left_of_it
}

# The end ------------------------------------------------------------------------

# After a failure, whatever is left would spoil the next case.
clean_up() {
	exec 9>&-
	touch "$work/stop"
	! mountpoint -q "$mnt" || umount -l "$mnt"
	nbd_clean_up
	fublk del --all >>"$log" 2>&1
	rm -f /run/fublk/* /var/lib/fublk/dropped/*
}

show_device() { { fublk list "$id"; tail -n 5 "/run/fublk/$id.log"; } 2>&1; }

nothing_left() {
	local left
	left=$(compgen -G '/dev/ublk[bc]*'; find /run/fublk /var/lib/fublk -type f ! -name lock; pgrep -ax fublk)
	[ -z "$left" ] || bad "left: $left"
}

# also FUNCTION OPTIONS...: run() it if all are wanted
also() { [ "$all" != all ] || run "$@"; }

# Nothing is there without the driver.
no_driver() {
	rmmod $module 2>>"$log" || bad "$module: rmmod fails" || return
	refused 3 "no ublk driver" list
}

[ -x "$fublk" ] || { echo "$fublk is missing: dev/server build"; exit 1; }
mkdir -p /run/fublk
# Where mirrors remember what they have dropped. What there is of the host may be read-only.
mkdir -p /var/lib/fublk 2>/dev/null && mount -t tmpfs tmpfs /var/lib/fublk || mount -t tmpfs tmpfs /var/lib || exit 1
mkdir -p /var/lib/fublk
begin 400M
echo "$("$fublk" --version), $DRIVER driver, Linux $(uname -r), ${VM_ACCEL:-}"

mode=${modes[0]}
# While nothing else has taken memory: where the processor is emulated, there is
# little to see of an end if less is left than this leaves.
also pressure "$mode" '' ''
run messages
run foreground
also udev
run ordinary
also stale
also devices_of_a_file
also take_over
run locked
if [ "$all" = all ]; then
	run recover_twice
	run made_twice
	run stop_mounted reissue
	run early_signal
	run under_way
	run stop_mounted fail
	run large_blocks
	run faulty EAGAIN 5+3
	run faulty EBADF 20
	run mirror_remembers
	run mirror_dirty
	run mirror_degraded
	run mirror_zeroes
	run block_watched
	run another_file
	run another_base
	run qcow2_again "$mode"
	run run_keeps
	run stacked term
	run stacked ctrl_c
	run stacked del
	run untold
fi
# What has to do with how data move, in each mode; of how a server or a device ends, one
# way in each.
deaths=(wait reissue fail) ends=(del stop term)
for mode in "${modes[@]}"; do
	run file "$mode" '' --queues 2
	death=${deaths[0]} end=${ends[0]}
	deaths=("${deaths[@]:1}" "$death") ends=("${ends[@]:1}" "$end")
	if [ "$all" = all ]; then
		run null "$mode" --queues 2 --depth 32
		run batches "$mode"
		run stripe "$mode" 4K 3
		run mirror "$mode"
		run recover "$mode" "$death" --batch on
		run qcow2 "$mode" cluster_size=4k
		run qcow2_killed "$mode" "$death"
		run qcow2_hidden "$mode" --queues 2
	fi
	if [ "$all" = all ] || [ "$mode" = "${modes[0]}" ]; then
		run recover "$mode" "$death"
		run removed "$mode" "$end"
		also dies "$mode"
	fi
done
mode=${modes[0]}
# in_turn FUNCTION OPTIONS...: what has less to do with it, in one mode, another one each
turn=("${modes[@]}")
in_turn() {
	run "$1" "${turn[0]}" "${@:2}"
	turn=("${turn[@]:1}" "${turn[0]}")
}
if [ "$all" = all ]; then
	in_turn file --direct --depth 16
	in_turn block
	in_turn resize
	in_turn read_only
	in_turn full
	in_turn several
	in_turn xfs ''
	in_turn file '' --batch off
	in_turn qcow2 cluster_size=512 --queues 2 --depth 16
	in_turn qcow2 cluster_size=64k,compat=0.10
	in_turn qcow2 cluster_size=2M
	run xfs "$mode" --direct
	run qcow2 "$mode" cluster_size=64k --batch on
	run qcow2_hidden "$mode" --batch on
	run stripe "$mode" 64K 2
else
	run batches "$mode"
	run mirror "$mode"
fi
nbd_cases
run qcow2 "$mode" cluster_size=64k --queues 2
also qcow2_refused "$mode"
run nothing_left
end no_driver

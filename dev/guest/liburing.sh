#!/bin/bash
# dev/guest/liburing.sh: what our patches to liburing add, in the guest: its test of
# fused commands, with the sample driver, and its example of a server, on the Rust
# driver. Loads both and unloads them.
#
#   CONFIG=speed DRIVER=none dev/vm "bash $PWD/dev/guest/liburing.sh"
set -u
work=$(mktemp -d "${TMPDIR:-/tmp}/liburing.XXXXXX")
cd "$work" || exit 1
slow=${SLOWNESS:-100}
server=''

fail() {
	echo "not ok: $*"
	cat server.log 2>/dev/null
	[ -z "$server" ] || kill -KILL "$server" 2>/dev/null
	exit 1
}

# until_true SECONDS COMMAND...: wait for it, longer on a slow machine
until_true() {
	local end=$((SECONDS + $1 * slow / 100 + 1))
	until "${@:2}"; do
		[ $SECONDS -lt $end ] || return 1
		sleep 0.1
	done
}
gone() { ! [ -e "$1" ]; }
ended() { ! kill -0 "$server" 2>/dev/null; }

# Without a driver, it has to say that it is skipped; with one, it must not.
"$BUILD/liburing/fused-cmd.t"
[ $? -eq 77 ] || fail "fused-cmd without a driver is not skipped"
insmod "$BUILD/$CONFIG/samples/rust/rust_fused_cmd.ko" || fail "no sample driver"
until_true 10 test -c /dev/rust_fused_cmd || fail "no device of the sample driver"
timeout 120 "$BUILD/liburing/fused-cmd.t" || fail "fused-cmd: exit status $?"
until_true 10 rmmod rust_fused_cmd || fail "the sample driver is still in use"
echo "ok: fused-cmd"

insmod "$BUILD/$CONFIG/drivers/block/ublk_rs/ublk_rs.ko" || fail "no driver"
head -c 8M /dev/urandom >data
cp data file
"$BUILD/liburing/ublk-fused" file >name 2>server.log &
server=$!
until_true 20 test -s name || fail "the server has no device"
dev=$(cat name)
until_true 10 test -b "$dev" || fail "no $dev"

# Read all of it, with requests that are as large as they come and with small ones.
for bs in 4k 512k; do
	dd if="$dev" bs=$bs iflag=direct status=none | cmp - data || fail "read by $bs: other data"
done
# Write, and flush: the file has it when the server is gone, and so has the device.
head -c 3M /dev/urandom >fresh
dd if=fresh of="$dev" bs=192k seek=10 oflag=direct conv=notrunc,fsync status=none || fail "cannot write"
dd if=fresh of=data bs=192k seek=10 conv=notrunc status=none
dd if="$dev" bs=64k iflag=direct status=none | cmp - data || fail "read what was written: other data"
# What a request wants of behind the end of the file is zeroes.
truncate -s -8K file
truncate -s -8K data
truncate -s +8K data
dd if="$dev" bs=64k iflag=direct status=none | cmp - data || fail "read a file that has shrunk: other data"
truncate -s -8K data

kill -TERM "$server"
until_true 20 ended || fail "the server does not end"
wait "$server"
rc=$?
server=''
[ $rc -eq 0 ] || fail "the server: exit status $rc"
until_true 10 gone "$dev" || fail "$dev is still there"
until_true 10 gone "${dev/ublkb/ublkc}" || fail "${dev/ublkb/ublkc} is still there"
cmp file data || fail "the file has other data"
! [ -s server.log ] || fail "the server complained"
until_true 10 rmmod ublk_rs || fail "the driver is still in use"
echo "ok: ublk-fused"

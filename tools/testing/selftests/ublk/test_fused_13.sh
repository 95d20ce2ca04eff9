#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# File systems whose metadata lies in slab memory, on a disk whose data goes
# straight between a request's pages and a socket: jbd2 freezes blocks of 1 KiB
# there, XFS keeps the headers of its log there. The network stack must not take
# references on such pages, also not when SEND_ZC would have it hold them; nor if
# the buffer is one that the driver has registered.
#
# Usage: test_fused_13.sh [send|send_zc|registered]...

. "$(cd "$(dirname "$0")" && pwd)"/test_common.sh

ERR_CODE=0
SERVER=$(_ublk_test_top_dir)/fused_net
WORK=$(mktemp -d "${TMPDIR:-/tmp}"/net.XXXXXX)
TREE=$(_ublk_test_top_dir)

# Trees that come and go, with many small transactions; compared at the end
_use()
{
	local i j

	mount -t "$1" "$2" "$WORK"/mnt || return
	for i in 1 2 3; do
		cp -r "$TREE" "$WORK"/mnt/$i && sync -f "$WORK"/mnt || return
		for j in {1..100}; do
			echo "$j" > "$WORK"/mnt/file"$j"
		done
		sync -f "$WORK"/mnt
		[ $i -eq 1 ] || rm -rf "${WORK:?}"/mnt/$((i - 1))
	done
	umount "$WORK"/mnt && mount -t "$1" "$2" "$WORK"/mnt || return
	diff -r --no-dereference "$TREE" "$WORK"/mnt/3 || return
	umount "$WORK"/mnt || return
	case $1 in
	ext4) e2fsck -fn "$2" ;;
	xfs) xfs_repair -n "$2" ;;
	esac
}

_serve()
{
	local mode=$1 kind=$2 pid dev
	shift 2

	"$SERVER" "$mode" 320 > "$WORK"/out 2>&1 &
	pid=$!
	until dev=$(grep -o '/dev/ublkb[0-9]*' "$WORK"/out); do
		if ! kill -0 $pid 2> /dev/null; then
			cat "$WORK"/out
			wait $pid
			return
		fi
		sleep 0.1
	done
	udevadm settle
	if ! mkfs."$kind" "$@" "$dev" > "$WORK"/log 2>&1 ||
	   ! _use "$kind" "$dev" >> "$WORK"/log 2>&1; then
		tail -n 20 "$WORK"/log
		umount -l "$WORK"/mnt 2> /dev/null
		kill $pid
		wait $pid
		return 255
	fi
	kill $pid
	wait $pid
}

_prep_test "fused" "file systems with metadata in slab memory, over sockets"

_have_program mkfs.ext4 && _have_program mkfs.xfs || exit "$UBLK_SKIP_CODE"
mkdir "$WORK"/mnt
ip link set lo up 2> /dev/null || ifconfig lo up 2> /dev/null
[ $# -gt 0 ] || set -- send send_zc registered
for mode; do
	_serve $mode ext4 -q -F -b 1024 -J size=4 || ERR_CODE=$?
	[ $ERR_CODE -eq 0 ] || break
	_serve $mode xfs -q -f -s size=512 -b size=1024 || ERR_CODE=$?
	[ $ERR_CODE -eq 0 ] || break
done

rm -rf "${WORK:?}"
_cleanup_test
_show_result "$TID" $ERR_CODE

#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# The server is the last task of a mount name space in which its own disk is
# mounted, as in a container, and is killed: the end of the name space unmounts
# the disk, which needs the server, while that is on its way out. However that
# ends, it ends, and the device can be deleted. If requests wait for the next
# server, it ends when the device is deleted.

. "$(cd "$(dirname "$0")" && pwd)"/test_common.sh

ERR_CODE=0

# How long something may take that must end, in tenths of a second: once it waits for
# the block layer's timer, 30 s, and no longer.
PATIENCE=600

# All threads of a process have ended.
_gone()
{
	! grep -q '^State:[[:space:]]*[^ZX[:space:]]' /proc/"$1"/task/*/status 2> /dev/null
}

_wait_gone()
{
	for ((i = 0; i < PATIENCE; i++)); do
		_gone "$1" && return 0
		sleep 0.1
	done
	echo "$2 hangs:"
	head -n 40 /proc/"$1"/task/*/stack
	ERR_CODE=255
	return 255
}

# Only the server stays in the name space, with dirty data.
_start_in_namespace()
{
	export UBLK_PROG UBLK_TMP MNT
	# shellcheck disable=SC2016
	unshare --mount --propagation private bash -c '
		${UBLK_PROG} add -t loop -q 1 --no_auto_part_scan "$@" > "$UBLK_TMP" || exit 1
		dev=/dev/ublkb$(sed -n "s/^dev id \([0-9]*\):.*/\1/p" "$UBLK_TMP")
		udevadm settle --timeout=20
		mount -t ext4 "$dev" "$MNT" || exit 1
		# written back by somebody else when the server is killed
		dd if=/dev/urandom of="$MNT/file" bs=64k count=256 status=none
	' bash "$@"
}

# Usage: _kill_last HOLDS [option of kublk]
# HOLDS: yes or no, whether requests wait for the next server
_kill_last()
{
	local holds=$1
	shift
	local dev_id pid deleter syncer

	truncate -s 0 "${UBLK_BACKFILES[0]}"
	truncate -s 64M "${UBLK_BACKFILES[0]}"
	mkfs.ext4 -q -F "${UBLK_BACKFILES[0]}"
	if ! _start_in_namespace "$@" "${UBLK_BACKFILES[0]}"; then
		echo "options: ${*:-none}: no mounted disk"
		ERR_CODE=255
		return
	fi
	dev_id=$(sed -n 's/^dev id \([0-9]*\):.*/\1/p' "$UBLK_TMP")
	pid=$(_get_ublk_daemon_pid "$dev_id")

	sync &
	syncer=$!
	kill -9 "$pid"
	if [ "$holds" = no ]; then
		_wait_gone "$pid" "options: ${*:-none}: the server" ||
			echo "the device is $(_get_ublk_dev_state "$dev_id")"
	fi
	${UBLK_PROG} del -n "$dev_id" &
	deleter=$!
	_wait_gone "$deleter" "options: ${*:-none}: DEL_DEV" || return
	wait $deleter || ERR_CODE=255
	_wait_gone "$pid" "options: ${*:-none}: the server of a deleted device" || return
	_wait_gone "$syncer" "options: ${*:-none}: sync"
}

_have_program mkfs.ext4 || exit "$UBLK_SKIP_CODE"
modprobe ext4 > /dev/null 2>&1
grep -qw ext4 /proc/filesystems || exit "$UBLK_SKIP_CODE"

_prep_test "life" "the last task of a mount name space serves a disk of it"

_create_backfile 0 64M
MNT=$(_create_tmp_dir)
modes=("" -u)
_have_feature "FUSED_CMD" && modes+=(--fused)
_have_feature "BATCH_IO" && modes+=(-b)
for mode in "${modes[@]}"; do
	# shellcheck disable=SC2086
	for recovery in "no" "yes -r 1" "yes -r 1 -i 1" "no -r 1 -e 1"; do
		_kill_last $recovery $mode
	done
done
_remove_tmp_dir "$MNT"

_cleanup_test
_show_result "$TID" $ERR_CODE

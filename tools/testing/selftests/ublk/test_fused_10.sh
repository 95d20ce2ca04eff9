#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# File systems in use while the server is killed and replaced again and again,
# in each way of moving data.

. "$(cd "$(dirname "$0")" && pwd)"/test_common.sh

ERR_CODE=$UBLK_SKIP_CODE

_have_feature "FUSED_CMD" || exit "$UBLK_SKIP_CODE"

# Usage: _use_and_recover ext4|xfs [option of kublk]
_use_and_recover()
{
	local fs=$1
	local args=(-t loop -q 2 -r 1 -i 1 "${@:2}" "${UBLK_BACKFILES[0]}")
	local dev_id state user
	local recovered=0

	dev_id=$(_add_ublk_dev "${args[@]}")
	_check_add_dev "$TID" $?

	_copy_tree_test "$fs" /dev/ublkb"${dev_id}" &
	user=$!
	while kill -0 $user 2> /dev/null; do
		state=$(__ublk_kill_daemon "${dev_id}" "QUIESCED")
		[ "$state" == "QUIESCED" ] || break
		state=$(_recover_ublk_dev -n "${dev_id}" "${args[@]}")
		[ "$state" == "LIVE" ] || break
		recovered=$((recovered + 1))
	done

	if [ "$state" != "LIVE" ]; then
		echo "$*: state $state after $recovered recoveries"
		ERR_CODE=255
	fi
	if ! wait $user; then
		echo "$*: bad file system after $recovered recoveries"
		ERR_CODE=255
	fi
	echo "$*: $recovered recoveries"
	_ublk_del_dev "${dev_id}" || ERR_CODE=255
}

_prep_test "recover" "file systems on a server that is killed and replaced"
_create_backfile 0 512M

for fs in ext4 xfs; do
	modprobe $fs > /dev/null 2>&1
	grep -qw $fs /proc/filesystems && _have_program mkfs.$fs || continue
	[ $ERR_CODE -ne "$UBLK_SKIP_CODE" ] || ERR_CODE=0
	for mode in "" -u -z --auto_zc --fused; do
		# shellcheck disable=SC2086
		_use_and_recover $fs $mode
	done
done

_cleanup_test
_show_result "$TID" $ERR_CODE

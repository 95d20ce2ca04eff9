#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# STOP_DEV while the page cache of the disk is dirty and somebody has it open:
# a live server writes it back, in each way of moving data, whatever would
# happen to requests without a server.
#
# Usage: test_life_02.sh [quick], with one of the kinds of recovery

. "$(cd "$(dirname "$0")" && pwd)"/test_common.sh

ERR_CODE=0
WRITEBACK=/proc/sys/vm/dirty_writeback_centisecs

# Usage: _stop_dirty [option of kublk]
_stop_dirty()
{
	local dev_id

	truncate -s 0 "${UBLK_BACKFILES[0]}"
	truncate -s 16M "${UBLK_BACKFILES[0]}"
	dev_id=$(_add_ublk_dev -t loop -q 2 --no_auto_part_scan "$@" "${UBLK_BACKFILES[0]}")
	_check_add_dev "$TID" $?

	exec 9<> /dev/ublkb"${dev_id}"
	cat "$UBLK_TMP" >&9
	${UBLK_PROG} stop -n "${dev_id}" || ERR_CODE=255
	exec 9>&-
	_ublk_del_dev "${dev_id}" || ERR_CODE=255
	if ! cmp -n 4194304 "$UBLK_TMP" "${UBLK_BACKFILES[0]}"; then
		echo "options: ${*:-none}: dirty data is lost"
		ERR_CODE=255
	fi
}

_prep_test "life" "a device with a dirty page cache is stopped"

_create_backfile 0 16M
dd if=/dev/urandom of="$UBLK_TMP" bs=1M count=4 status=none
centisecs=$(cat $WRITEBACK)
trap 'echo $centisecs > $WRITEBACK' EXIT
# nobody but STOP_DEV writes it back
echo 0 > $WRITEBACK

modes=("" -g -u -z --auto_zc)
_have_feature "FUSED_CMD" && modes+=(--fused)
kinds=("" "-r 1" "-r 1 -i 1" "-r 1 -e 1")
[ "${1:-}" != quick ] || kinds=("-r 1")
for recovery in "${kinds[@]}"; do
	for mode in "${modes[@]}"; do
		# shellcheck disable=SC2086
		_stop_dirty $mode $recovery
	done
done

# A server that works on batches may be asked for what is written back by a FETCH
# that any of its threads has sent.
if _have_feature "BATCH_IO"; then
	_stop_dirty -b -r 1
	_stop_dirty -b --auto_zc -r 1
	! _have_feature "FUSED_CMD" || _stop_dirty -b --fused -r 1
fi

_cleanup_test
_show_result "$TID" $ERR_CODE

#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# A server that wants fused commands has to ask whether they are there: a driver
# that does not know them ignores the flag, and an older io_uring runs the
# secondaries on the server's own memory. So kublk refuses to add a device. For
# drivers without fused commands.

. "$(cd "$(dirname "$0")" && pwd)"/test_common.sh

ERR_CODE=0

if _have_feature "FUSED_CMD"; then
	exit "$UBLK_SKIP_CODE"
fi

_prep_test "fused" "no fused commands without a driver that has them"

_create_backfile 0 16M

# it can be added otherwise
dev_id=$(_add_ublk_dev -t loop -q 1 --no_auto_part_scan "${UBLK_BACKFILES[0]}")
_check_add_dev "$TID" $?
_ublk_del_dev "${dev_id}" || ERR_CODE=255

for mode in --fused --group "--fused -b"; do
	# shellcheck disable=SC2086
	if ${UBLK_PROG} add -t loop -q 1 --no_auto_part_scan $mode \
	   "${UBLK_BACKFILES[0]}" > /dev/null 2>&1; then
		echo "$mode: there is a device"
		${UBLK_PROG} del -a > /dev/null 2>&1
		ERR_CODE=255
	fi
done

_cleanup_test
_show_result "$TID" $ERR_CODE

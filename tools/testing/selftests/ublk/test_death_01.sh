#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Servers that are killed at any moment: before START_DEV, live, in recovery,
# while their device is stopped, deleted or quiesced, two at once. Everything
# that waits for them ends, and nobody holds the driver afterwards.

. "$(cd "$(dirname "$0")" && pwd)"/test_common.sh

ERR_CODE=0

_prep_test "death" "servers killed at any moment"

# where a driver is slow, so are its servers
patience=800
[ -e /proc/lockdep ] && patience=2500
"$(_ublk_test_top_dir)"/parity -w $patience death > "$UBLK_TMP"
grep -v -- '-> ended$' "$UBLK_TMP" && ERR_CODE=255
nr=$(grep -c -- '-> ended$' "$UBLK_TMP")
if [ "$nr" -ne 64 ]; then
	echo "$nr of 64 lives ended"
	ERR_CODE=255
fi

_cleanup_test

for module in ublk_rs ublk_drv; do
	refcnt=$(cat /sys/module/$module/refcnt 2> /dev/null || echo 0)
	if [ "$refcnt" -ne 0 ]; then
		echo "$module is still in use: $refcnt"
		ERR_CODE=255
	fi
done
_show_result "$TID" $ERR_CODE

#!/bin/bash
# SPDX-License-Identifier: GPL-2.0

. "$(cd "$(dirname "$0")" && pwd)"/test_common.sh

ERR_CODE=0

_prep_test "zoned" "zones, a server's nonsense about them, and its death meanwhile"

# appends come by an NVMe target
mountpoint -q /sys/kernel/config || mount -t configfs none /sys/kernel/config 2>/dev/null
for prog in life_zoned life_zoned_end; do
	"$(_ublk_test_top_dir)"/$prog
	rc=$?
	# a failure outweighs a test that does not apply
	case $rc in
	0 | "$UBLK_SKIP_CODE") [ $ERR_CODE -ne 0 ] || ERR_CODE=$rc ;;
	*) ERR_CODE=$rc ;;
	esac
done

_cleanup_test
_show_result "$TID" $ERR_CODE

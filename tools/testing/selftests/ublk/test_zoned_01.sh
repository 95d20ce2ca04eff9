#!/bin/bash
# SPDX-License-Identifier: GPL-2.0

. "$(cd "$(dirname "$0")" && pwd)"/test_common.sh

ERR_CODE=0

_prep_test "zoned" "zones, a server's nonsense about them, and its death meanwhile"

# appends come by an NVMe target
mountpoint -q /sys/kernel/config || mount -t configfs none /sys/kernel/config 2>/dev/null
"$(_ublk_test_top_dir)"/life_zoned
ERR_CODE=$?

_cleanup_test
_show_result "$TID" $ERR_CODE

#!/bin/bash
# SPDX-License-Identifier: GPL-2.0

. "$(cd "$(dirname "$0")" && pwd)"/test_common.sh

ERR_CODE=0

if ! _have_program mkfs.ext4; then
	exit "$UBLK_SKIP_CODE"
fi

modprobe ext4 > /dev/null 2>&1
if ! grep -qw ext4 /proc/filesystems; then
	exit "$UBLK_SKIP_CODE"
fi

_prep_test "fused" "loop: ext4, copy a tree, check"

_create_backfile 0 128M
dev_id=$(_add_ublk_dev -t loop --fused "${UBLK_BACKFILES[0]}")
_check_add_dev "$TID" $?

_copy_tree_test ext4 /dev/ublkb"${dev_id}"
ERR_CODE=$?

_cleanup_test
_show_result "$TID" $ERR_CODE

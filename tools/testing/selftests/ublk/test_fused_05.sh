#!/bin/bash
# SPDX-License-Identifier: GPL-2.0

. "$(cd "$(dirname "$0")" && pwd)"/test_common.sh

ERR_CODE=0

if ! _have_program mkfs.xfs; then
	exit "$UBLK_SKIP_CODE"
fi

modprobe xfs > /dev/null 2>&1
if ! grep -qw xfs /proc/filesystems; then
	exit "$UBLK_SKIP_CODE"
fi

_prep_test "fused" "loop: xfs, copy a tree, check"

_create_backfile 0 512M
dev_id=$(_add_ublk_dev -t loop --fused "${UBLK_BACKFILES[0]}")
_check_add_dev "$TID" $?

_copy_tree_test xfs /dev/ublkb"${dev_id}"
ERR_CODE=$?

_cleanup_test
_show_result "$TID" $ERR_CODE

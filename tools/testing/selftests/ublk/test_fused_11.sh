#!/bin/bash
# SPDX-License-Identifier: GPL-2.0

. "$(cd "$(dirname "$0")" && pwd)"/test_common.sh

ERR_CODE=0

_prep_test "fused" "no stale memory in a read that a group commits"

"$(_ublk_test_top_dir)"/fused_stale
ERR_CODE=$?

_cleanup_test
_show_result "$TID" $ERR_CODE

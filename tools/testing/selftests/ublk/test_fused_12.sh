#!/bin/bash
# SPDX-License-Identifier: GPL-2.0

. "$(cd "$(dirname "$0")" && pwd)"/test_common.sh

ERR_CODE=0

_prep_test "fused" "a server that nobody trusts gets nothing that is not its own"

"$(_ublk_test_top_dir)"/fused_hostile
ERR_CODE=$?

_cleanup_test
_show_result "$TID" $ERR_CODE

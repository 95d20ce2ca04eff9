#!/bin/bash
# SPDX-License-Identifier: GPL-2.0

. "$(cd "$(dirname "$0")" && pwd)"/test_common.sh

ERR_CODE=0

_prep_test "life" "no scan of the disk of a server that nobody trusts"

"$(_ublk_test_top_dir)"/life_scan
ERR_CODE=$?

_cleanup_test
_show_result "$TID" $ERR_CODE

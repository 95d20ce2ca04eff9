#!/bin/bash
# SPDX-License-Identifier: GPL-2.0

. "$(cd "$(dirname "$0")" && pwd)"/test_common.sh

ERR_CODE=0

_prep_test "life" "a server is killed while it stops its own device"

"$(_ublk_test_top_dir)"/life_exit
ERR_CODE=$?

_cleanup_test
_show_result "$TID" $ERR_CODE

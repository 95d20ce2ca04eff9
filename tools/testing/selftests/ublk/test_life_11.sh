#!/bin/bash
# SPDX-License-Identifier: GPL-2.0

. "$(cd "$(dirname "$0")" && pwd)"/test_common.sh

ERR_CODE=0

_prep_test "life" "requests of which a server will never be told"

"$(_ublk_test_top_dir)"/life_lost
ERR_CODE=$?

_cleanup_test
_show_result "$TID" $ERR_CODE

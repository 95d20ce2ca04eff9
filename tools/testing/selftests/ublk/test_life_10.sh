#!/bin/bash
# SPDX-License-Identifier: GPL-2.0

. "$(cd "$(dirname "$0")" && pwd)"/test_common.sh

ERR_CODE=0

_prep_test "life" "a server that has no room for the data of a write, or brings a read in parts"

"$(_ublk_test_top_dir)"/life_copy
ERR_CODE=$?

_cleanup_test
_show_result "$TID" $ERR_CODE

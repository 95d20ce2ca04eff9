#!/bin/bash
# SPDX-License-Identifier: GPL-2.0

. "$(cd "$(dirname "$0")" && pwd)"/test_common.sh

ERR_CODE=0

_prep_test "life" "what others are told of a device is true when they hear it"

"$(_ublk_test_top_dir)"/life_event
ERR_CODE=$?

_cleanup_test
_show_result "$TID" $ERR_CODE

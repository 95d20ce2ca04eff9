#!/bin/bash
# SPDX-License-Identifier: GPL-2.0

. "$(cd "$(dirname "$0")" && pwd)"/test_common.sh

ERR_CODE=0

_prep_test "batch" "servers that die while their own device is stopped"

"$(_ublk_test_top_dir)"/life_batch_death -t own_device
ERR_CODE=$?

_cleanup_test
_show_result "$TID" $ERR_CODE

#!/bin/bash
# SPDX-License-Identifier: GPL-2.0

. "$(cd "$(dirname "$0")" && pwd)"/test_common.sh

ERR_CODE=0

_prep_test "fused" "rules of the fused command, good and bad"

for ring in default defer; do
	echo "ring: $ring"
	"$(_ublk_test_top_dir)"/fused_cmd_errors "$ring"
	ret=$?
	if [ $ret -ne 0 ]; then
		ERR_CODE=$ret
	fi
done

_cleanup_test
_show_result "$TID" $ERR_CODE

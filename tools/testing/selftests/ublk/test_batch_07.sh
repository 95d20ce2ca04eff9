#!/bin/bash
# SPDX-License-Identifier: GPL-2.0

. "$(cd "$(dirname "$0")" && pwd)"/test_common.sh

ERR_CODE=0

_prep_test "batch" "random commands, right and wrong, with a model of their answers"

"$(_ublk_test_top_dir)"/batch_fuzz "$@"
ERR_CODE=$?

_cleanup_test
_show_result "$TID" $ERR_CODE

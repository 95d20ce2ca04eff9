#!/bin/bash
# SPDX-License-Identifier: GPL-2.0

. "$(cd "$(dirname "$0")" && pwd)"/test_common.sh

ERR_CODE=0

_prep_test "metadata" "integrity metadata of all kinds, made, checked and from the user"

"$(_ublk_test_top_dir)"/metadata_io
ERR_CODE=$?

_cleanup_test
_show_result "$TID" $ERR_CODE

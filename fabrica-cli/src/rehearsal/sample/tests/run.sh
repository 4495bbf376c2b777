#!/bin/sh
# Runs every test beside this file, each with an empty stock of its own.
set -eu

cd "$(dirname "$0")/.."
failed=0
for test in tests/*_test.sh; do
    STOCK_FILE=$(mktemp)
    export STOCK_FILE
    if sh "$test"; then
        echo "ok   $test"
    else
        echo "FAIL $test"
        failed=1
    fi
    rm -f "$STOCK_FILE"
done
exit "$failed"

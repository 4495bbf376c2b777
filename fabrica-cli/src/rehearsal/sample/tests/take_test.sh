# What is taken is gone, and more than there is cannot be taken.
set -eu

sh bin/stock add bolt 10
sh bin/stock take bolt 3
[ "$(sh bin/stock show bolt)" = 7 ]

if sh bin/stock take bolt 8 2>/dev/null; then
    exit 1
fi
[ "$(sh bin/stock show bolt)" = 7 ]

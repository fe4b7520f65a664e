#!/usr/bin/env bash
# pyarrow's limit on the dictionary page of a Parquet column does not hold for large values such as pictures.
#
# Versions:  pyarrow 25.0.1; the same with 26.0.1.
# Behaviour: write_table encodes a column with a dictionary until the dictionary is too large, and then plainly; the
#            limit is `dictionary_pagesize_limit`, documented as 1 MB when not given. With 1,000 pictures of 20 kB, all
#            different, the dictionary page nevertheless takes all 20 MB, and it does so too when 64 KiB are asked for:
#            the size is looked at once per `write_batch_size` values, 1,024 by default, however long these are. So a
#            row group of up to 1,024 pictures lies in one page that has to be read as a whole to get at any of them,
#            and the data page only numbers the entries. What helps is a smaller `write_batch_size`, documented for the
#            size of data pages alone, or `use_dictionary` without that column.
# Seen:      pyarrow 25.0.1: 1,000 different values of 20,000 bytes
#            default                             dictionary page of 20,004,943 bytes
#            dictionary_pagesize_limit=65536     dictionary page of 20,004,943 bytes
#            write_batch_size=16                 dictionary page of 1,280,340 bytes
#            use_dictionary=False                no dictionary page
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"${PYTHON:-python3}" -m venv venv
venv/bin/python -m pip install --quiet "pyarrow==25.0.1"

cat >show.py <<'PYTHON'
import random

import pyarrow
import pyarrow.parquet

PICTURES, LENGTH = 1_000, 20_000
draw = random.Random(0)
table = pyarrow.table({"image": [draw.randbytes(LENGTH) for _ in range(PICTURES)]})


def dictionary_page(**options):
    """Bytes of the dictionary page of the column's first row group, 0 without such a page."""
    pyarrow.parquet.write_table(table, "pictures.parquet", **options)
    column = pyarrow.parquet.ParquetFile("pictures.parquet").metadata.row_group(0).column(0)
    size = column.data_page_offset - column.dictionary_page_offset if column.has_dictionary_page else 0
    label = ", ".join(f"{name}={value}" for name, value in options.items()) or "default"
    print(f"{label:36}" + (f"dictionary page of {size:,} bytes" if size else "no dictionary page"))
    return size


print(f"pyarrow {pyarrow.__version__}: {PICTURES:,} different values of {LENGTH:,} bytes")
assert dictionary_page() > PICTURES * LENGTH, "by default not all values are in the dictionary page"
assert dictionary_page(dictionary_pagesize_limit=65536) > PICTURES * LENGTH, "a lower limit has an effect"
assert dictionary_page(write_batch_size=16) < 2 * 2**20, "a smaller batch does not keep the page near its limit"
assert dictionary_page(use_dictionary=False) == 0, "there is a dictionary although none is asked for"
PYTHON
venv/bin/python -I show.py

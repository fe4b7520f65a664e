#!/usr/bin/env bash
# img2dataset keeps a row for a picture that it could not download when it writes Parquet, and no trace in a tar.
#
# Versions:  img2dataset 1.47.0 with pyarrow 26.0.1, numpy 2.4.6 and opencv-python-headless 4.14.0.94.
# Behaviour: a list of addresses of which one is dead, as in every long list, becomes data sets of different lengths.
#            With output_format="webdataset" the tar has only pictures that came. With "parquet" every address has a
#            row, and where nothing came the picture is null (the status column says why), so that such a shard has
#            more rows than samples. The Parquet file that lies beside each tar, with the same name, looks like such a
#            shard and is none: it has a row per address, dead ones too, and no pictures at all.
# Seen, after the tool's own lines:
#            img2dataset 1.47.0: 4 addresses, the last one is dead
#            webdataset, 00000.tar:     3 pictures
#            webdataset, 00000.parquet: 4 rows, pictures: False
#            parquet, 00000.parquet:    4 rows, bytes of the pictures:
#              {'000000000': 761, '000000001': 761, '000000002': 758, '000000003': None}
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"${PYTHON:-python3}" -m venv venv
venv/bin/python -m pip install --quiet "img2dataset==1.47.0" "pyarrow==26.0.1" "numpy==2.4.6" \
  "opencv-python-headless==4.14.0.94"
export NO_ALBUMENTATIONS_UPDATE=1

cat >show.py <<'PYTHON'
import functools
import http.server
import importlib.metadata
import pathlib
import tarfile
import threading

import cv2
import numpy
import pyarrow.parquet
from img2dataset import download


class Handler(http.server.SimpleHTTPRequestHandler):
    """Serves files, quietly."""

    def log_message(self, *_):
        pass


def fetch(addresses, output_format):
    """Fetch the pictures; returns the Parquet table that is written."""
    pathlib.Path("list.txt").write_text("\n".join(addresses))
    download(
        url_list="list.txt",
        output_folder=output_format,
        output_format=output_format,
        processes_count=1,
        thread_count=1,
        image_size=32,
    )
    return pyarrow.parquet.read_table(f"{output_format}/00000.parquet")


def main():
    pathlib.Path("served").mkdir()
    for number in range(3):
        cv2.imwrite(f"served/{number}.png", numpy.full((48, 64, 3), 80 * number, numpy.uint8))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory="served"))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    addresses = [f"http://127.0.0.1:{server.server_port}/{number}.png" for number in range(4)]
    beside, parquet = fetch(addresses, "webdataset"), fetch(addresses, "parquet")
    with tarfile.open("webdataset/00000.tar") as tar:
        pictures = [name for name in tar.getnames() if name.endswith(".jpg")]

    print(f"img2dataset {importlib.metadata.version('img2dataset')}: {len(addresses)} addresses, the last one is dead")
    print(f"webdataset, 00000.tar:     {len(pictures)} pictures")
    print(f"webdataset, 00000.parquet: {beside.num_rows} rows, pictures: {'jpg' in beside.column_names}")
    lengths = {row["key"]: row["jpg"] and len(row["jpg"]) for row in parquet.to_pylist()}
    print(f"parquet, 00000.parquet:    {parquet.num_rows} rows, bytes of the pictures: {lengths}")
    assert len(pictures) == 3, "the tar has another number of pictures"
    assert beside.num_rows == 4, "the Parquet file beside the tar has another number of rows"
    assert "jpg" not in beside.column_names, "the Parquet file beside the tar has pictures"
    assert [key for key, length in lengths.items() if length is None] == ["000000003"], "other pictures are null"
    assert parquet.num_rows == 4, "the Parquet shard has another number of rows"


if __name__ == "__main__":
    main()
PYTHON
venv/bin/python -I show.py

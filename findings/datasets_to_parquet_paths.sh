#!/usr/bin/env bash
# A picture data set that `datasets` exports to Parquet has no pictures in it, but paths of the machine it was made on.
#
# Versions:  datasets 5.2.0 with pyarrow 25.0.1 and pillow 13.0.0.
# Behaviour: a folder of pictures, loaded with "imagefolder" and written by Dataset.to_parquet, gives rows whose image
#            is {bytes: null, path: ABSOLUTE PATH}. Nothing is said about it when it is written, to_parquet has no
#            option against it, and where those paths do not exist the pictures are lost. Dataset.save_to_disk puts the
#            bytes of the same pictures into its files, and so does to_parquet with pictures that `map` has changed.
# Seen:      datasets 5.2.0: 12,688 bytes of pictures in 4 files
#            to_parquet: [(None, 'absolute'), (None, 'absolute'), (None, 'absolute'), (None, 'absolute')]
#                        smaller than the pictures: True
#            save_to_disk: [3172, 3172, 3172, 3172] bytes
#            map, then to_parquet: [3172, 3172, 3172, 3172] bytes
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"${PYTHON:-python3}" -m venv venv
venv/bin/python -m pip install --quiet "datasets==5.2.0" "pyarrow==25.0.1" "pillow==13.0.0"
export HF_HOME="$folder/cache" HF_HUB_OFFLINE=1 HF_DATASETS_DISABLE_PROGRESS_BARS=1

cat >show.py <<'PYTHON'
import pathlib
import random

import datasets
import pyarrow.parquet
from PIL import Image

pictures = pathlib.Path("pictures")
pictures.mkdir()
draw = random.Random(0)
for number in range(4):
    Image.frombytes("RGB", (32, 32), draw.randbytes(3 * 32 * 32)).save(pictures / f"{number}.png")
files = {path.read_bytes() for path in pictures.iterdir()}
total = sum(map(len, files))
print(f"datasets {datasets.__version__}: {total:,} bytes of pictures in {len(files)} files")


def exported(dataset, name):
    """The images of a data set as they stand in the Parquet file that it is exported to."""
    dataset.to_parquet(name)
    return pyarrow.parquet.read_table(name)["image"].to_pylist()


loaded = datasets.load_dataset("imagefolder", data_dir="pictures", split="train")
plain = exported(loaded, "plain.parquet")
print("to_parquet:", [(image["bytes"], "absolute" if image["path"].startswith("/") else "relative") for image in plain])
print("            smaller than the pictures:", pathlib.Path("plain.parquet").stat().st_size < total)
assert all(image["bytes"] is None for image in plain), "to_parquet embeds the pictures"
assert all(pathlib.Path(image["path"]).is_absolute() for image in plain), "the paths are no longer absolute"

loaded.save_to_disk("saved")
saved = datasets.load_from_disk("saved").cast_column("image", datasets.Image(decode=False))["image"]
print("save_to_disk:", [len(image["bytes"] or b"") for image in saved], "bytes")
assert {image["bytes"] for image in saved} == files, "save_to_disk does not embed the files either"

turned = exported(loaded.map(lambda row: {"image": row["image"].rotate(90)}), "turned.parquet")
print("map, then to_parquet:", [len(image["bytes"] or b"") for image in turned], "bytes")
assert all((image["bytes"] or b"").startswith(b"\x89PNG") for image in turned), "changed pictures are not embedded"
PYTHON
venv/bin/python -I show.py

#!/usr/bin/env bash
# Pillow turns a 16-bit grey PNG almost wholly white when it is converted to RGB, without a warning.
#
# Versions:  pillow 13.0.0; OpenCV 5.0.0.93 to compare.
# Behaviour: Image.open gives such a file the mode I;16, and convert("RGB"), the usual first step of an image pipeline,
#            cuts every value at 255 instead of scaling 0 to 65,535 down to 0 to 255; convert("L") does the same. All
#            that is brighter than 0.4 % of full brightness becomes white. OpenCV scales the same file, so that two
#            decoders of one training set disagree on nearly every pixel.
# Seen:      pillow 13.0.0, OpenCV 5.0.0: 256 greys in mode I;16
#            pillow, RGB    2 greys, 255 of 256 pixels white
#            pillow, L      2 greys, 255 of 256 pixels white
#            OpenCV       256 greys, 1 of 256 pixels white
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"${PYTHON:-python3}" -m venv venv
venv/bin/python -m pip install --quiet "pillow==13.0.0" "opencv-python-headless==5.0.0.93" "numpy==2.4.6"

cat >show.py <<'PYTHON'
import struct

import cv2
import PIL
from PIL import Image

ramp = struct.pack("<256H", *(257 * grey for grey in range(256)))
Image.frombytes("I;16", (256, 1), ramp).save("ramp.png")
with Image.open("ramp.png") as picture:
    mode, red, grey = picture.mode, picture.convert("RGB").tobytes()[::3], picture.convert("L").tobytes()
seen = {"pillow, RGB": red, "pillow, L": grey, "OpenCV": cv2.imread("ramp.png", cv2.IMREAD_COLOR)[..., 0].tobytes()}

print(f"pillow {PIL.__version__}, OpenCV {cv2.__version__}: 256 greys in mode {mode}")
for name, pixels in seen.items():
    print(f"{name:12}{len(set(pixels)):4} greys, {pixels.count(255)} of {len(pixels)} pixels white")
assert red == grey == bytes([0] + [255] * 255), "pillow no longer cuts at 255"
assert seen["OpenCV"] == bytes(range(256)), "OpenCV no longer scales"
PYTHON
venv/bin/python -I show.py

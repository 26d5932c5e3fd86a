"""What all scripts share. Importing anything of it keeps onnxruntime from reporting to its makers."""

from __future__ import annotations

import os

# From 1.32 on it writes an id of the machine and looks up its makers' server as soon as it is imported.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

"""The engine: bundles, runners and the batcher that many callers share."""

import os

# From 1.31 on ONNX Runtime's wheels report to their maker over the network, under an identifier that they keep in the home
# folder. What a model does here is nobody else's business; the variable is read when the library is first imported.
# Source: Privacy.md of the onnxruntime wheel, "Disabling Telemetry".
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

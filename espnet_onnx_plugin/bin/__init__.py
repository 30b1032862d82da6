"""Command lines: ``python -m espnet_onnx_plugin.bin.NAME``."""

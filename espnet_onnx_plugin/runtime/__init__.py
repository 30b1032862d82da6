"""Decoding with numpy and onnxruntime; never torch, ESPnet or onnx."""

"""The operators of ONNX, a file a theme; registry.py shows how to write one."""

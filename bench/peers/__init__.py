"""Adapters of frameworks that have no importer of ONNX graphs: `mdsl bench --vs bench.peers.torch`. A small evaluator
of such graphs calls the framework's functions."""

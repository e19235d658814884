"""ONNX models as modules of `nn` ops. Only this package needs the `onnx` package, when it is called."""

from mdsl.frontends.onnx.importing import Imported, Report, Source, check, import_model, import_onnx

__all__ = ["Imported", "Report", "Source", "check", "import_model", "import_onnx"]

"""ONNX Runtime sessions: one thread each, on the GPU only where it really answers."""

from pathlib import Path
from typing import Any, Literal

from pipelines.errors import BundleError, ConfigError

Device = Literal["auto", "cpu", "cuda"]
_ERRORS_ONLY, _FATAL_ONLY = 3, 4


def open_session(path: Path, device: Device = "auto") -> Any:
    """Load an ONNX model and return its `onnxruntime.InferenceSession`.

    `get_available_providers` lists CUDA on machines without a GPU too, so the session itself is asked which
    provider it got.

    Raises:
        BundleError: the file is not a model that ONNX Runtime can run.
        ConfigError: `device` is "cuda" and the GPU does not answer.
    """
    import onnxruntime

    wanted = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    try_gpu = device == "cuda" or (device == "auto" and wanted[0] in onnxruntime.get_available_providers())
    providers = wanted if try_gpu else wanted[1:]
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1  # more threads spin and make every median worse on shared cores
    options.inter_op_num_threads = 1
    options.log_severity_level = _FATAL_ONLY if try_gpu else _ERRORS_ONLY
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=providers)
    except Exception as error:
        raise BundleError(
            f"{path.name} cannot be loaded by ONNX Runtime ({str(error).splitlines()[0]}): use another bundle."
        ) from error
    if device == "cuda" and wanted[0] not in session.get_providers():
        raise ConfigError(
            f"The GPU does not answer: ONNX Runtime runs on {', '.join(session.get_providers())}. "
            "Install the `gpu` extra with CUDA and cuDNN, or use the device `cpu`."
        )
    return session

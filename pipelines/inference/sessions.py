"""ONNX Runtime sessions: one thread each, on the GPU only where it really answers."""

from pathlib import Path
from typing import Any, Literal

from pipelines.errors import BundleError, ConfigError

Device = Literal["auto", "cpu", "cuda", "tensorrt"]
_CPU, _CUDA, _TENSORRT = "CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider"
_ERRORS_ONLY, _FATAL_ONLY = 3, 4


def open_session(path: Path, device: Device = "auto") -> Any:
    """Load an ONNX model and return its `onnxruntime.InferenceSession`.

    `get_available_providers` lists CUDA on machines without a GPU too, so the session itself is asked which
    provider it got. "tensorrt" has to be asked for: it builds an engine for every new shape, which takes seconds.

    Raises:
        BundleError: the file is not a model that ONNX Runtime can run.
        ConfigError: `device` is "cuda" or "tensorrt" and the GPU does not answer.
    """
    import onnxruntime

    wanted = [*((_TENSORRT,) if device == "tensorrt" else ()), _CUDA, _CPU]
    try_gpu = device in ("cuda", "tensorrt") or (device == "auto" and gpu_is_listed())
    providers = wanted if try_gpu else [_CPU]
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
    if device in ("cuda", "tensorrt") and wanted[0] not in session.get_providers():
        raise ConfigError(
            f"The GPU does not answer: ONNX Runtime runs on {', '.join(session.get_providers())}. "
            "Install the `gpu` extra with CUDA and cuDNN, or use the device `cpu`."
        )
    return session


def gpu_is_listed() -> bool:
    """Whether this ONNX Runtime was built for GPUs; a GPU need not be there."""
    import onnxruntime

    return _CUDA in onnxruntime.get_available_providers()


def runs_on_gpu(session: Any) -> bool:
    """Whether the session got a GPU."""
    return any(name in (_CUDA, _TENSORRT) for name in session.get_providers())

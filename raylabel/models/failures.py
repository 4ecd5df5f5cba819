"""Failures of a model are failures of an image: a failed batch is tried again in parts, down to single images."""

import re
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

from raylabel.dataset.image_errors import MODEL_FAILED, ModelImageError
from raylabel.errors import InputError, StorageError, shown_error
from raylabel.redaction import redacted

_Result = TypeVar("_Result")

_OUT_OF_MEMORY = re.compile(
    r"out of memory|can't allocate memory|failed to allocate memory|ALLOC_FAILED", re.IGNORECASE
)
"""Words of errors that have no type of their own: of torch's CPU allocator, cuBLAS and onnxruntime."""


class LostDeviceError(Exception):
    """The device takes no more work from this process, as after an assertion on a GPU. A new process may use it."""


def call_on_parts(
    call: Callable[[range], Sequence[_Result]], num_images: int, device: torch.device
) -> list[_Result | ModelImageError]:
    """Call a model on a batch. If it raises an exception, call it on parts of the batch.

    A batch for which memory is too small is halved. After any other exception the images are taken one by one. Memory
    that torch keeps for later is freed before the next call.

    Args:
        call: calls the model on the images at these places of the batch, and returns one result per image.
        num_images: images of the batch.
        device: the model's device.

    Returns:
        One result per image, or why the model fails at this image.

    Raises:
        InputError, StorageError: raised by `call`, for a fault that is not the image's.
        LostDeviceError: the model has made the device unusable for this process.
    """
    results: list[_Result | ModelImageError] = []
    parts = deque([range(num_images)])
    while parts:
        part = parts.popleft()
        try:
            found = call(part)
            if len(found) != len(part):
                raise ValueError(f"the model must return one result per image, got {len(found)} for {len(part)}")
        except (InputError, StorageError):
            raise
        except Exception as error:
            # Any exception, because a model is any code, and one image must not end the work on millions.
            is_for_memory = _is_for_memory(error)
            failure = _described(error, is_for_memory)
        else:
            results += found
            continue
        # Outside of `except`, because the exception's frames hold the memory of the failed call.
        _recover(device, failure)
        if len(part) == 1:
            results.append(failure)
        else:
            middle = len(part) // 2
            smaller = [part[:middle], part[middle:]] if is_for_memory else [range(place, place + 1) for place in part]
            parts.extendleft(reversed(smaller))
    return results


def _is_for_memory(error: Exception) -> bool:
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or bool(_OUT_OF_MEMORY.search(str(error)))


def _described(error: Exception, is_for_memory: bool) -> ModelImageError:
    if is_for_memory:
        # Without the sizes, so that equal reasons can be counted.
        reason = "CUDA out of memory" if "CUDA" in str(error) else "out of memory"
    else:
        reason = shown_error(f"{type(error).__name__}: {error}")
    return ModelImageError(f"{MODEL_FAILED}: {redacted(reason)}", redacted("".join(traceback.format_exception(error))))


def _recover(device: torch.device, failure: ModelImageError) -> None:
    """Free the memory that torch keeps, and check that the device still takes work."""
    if device.type == "cuda":
        try:
            torch.cuda.synchronize(device)
            torch.cuda.empty_cache()
        except RuntimeError as error:
            raise LostDeviceError(f"{failure}, and then the device: {shown_error(error)}") from None

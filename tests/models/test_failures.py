"""A failing model costs the image at which it fails, and no other."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from raylabel.dataset.image_errors import ModelImageError
from raylabel.errors import InputError, StorageError
from raylabel.models.failures import call_on_parts

CPU = torch.device("cpu")


def calls_of(
    num_images: int, failing: Callable[[range], Exception | None]
) -> tuple[list[int | ModelImageError], list[range]]:
    """Call a model that returns ten times the place of each image. Return the results and the parts that it got."""
    parts: list[range] = []

    def call(part: range) -> list[int]:
        parts.append(part)
        if error := failing(part):
            raise error
        return [10 * place for place in part]

    return call_on_parts(call, num_images, CPU), parts


def test_too_little_memory_halves_the_batch() -> None:
    found, parts = calls_of(5, lambda part: torch.OutOfMemoryError("CUDA out of memory. GPU 0") if 3 in part else None)
    assert parts == [range(5), range(2), range(2, 5), range(2, 3), range(3, 5), range(3, 4), range(4, 5)]
    assert [str(one) for one in found] == ["0", "10", "20", "model failed: CUDA out of memory", "40"]


def test_after_another_exception_images_are_taken_one_by_one() -> None:
    found, parts = calls_of(4, lambda part: ValueError("boxes\nmust  be finite") if 2 in part else None)
    assert parts == [range(4), *(range(place, place + 1) for place in range(4))]
    assert [str(one) for one in found] == ["0", "10", "model failed: ValueError: boxes must be finite", "30"]
    failure = found[2]
    assert isinstance(failure, ModelImageError)
    assert failure.traceback.startswith("Traceback (most recent call last):\n")


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), "CUDA out of memory"),
        (RuntimeError("CUDA error: out of memory"), "CUDA out of memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"), "out of memory"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`"), "CUDA out of memory"),
        (MemoryError(), "out of memory"),
        (KeyError("a"), "KeyError: 'a'"),
        (ValueError("s3://key:secret@bucket/weights"), "ValueError: s3://***@bucket/weights"),
    ],
)
def test_a_reason_is_short_and_without_secrets(error: Exception, reason: str) -> None:
    [found], _ = calls_of(1, lambda part: error)
    assert str(found) == f"model failed: {reason}"
    assert isinstance(found, ModelImageError)
    assert "secret" not in found.traceback


def test_a_model_that_returns_too_few_results_fails() -> None:
    found = call_on_parts(lambda part: [] if 1 in part else list(part), 2, CPU)
    assert found[0] == 0
    assert str(found[1]) == ("model failed: ValueError: the model must return one result per image, got 0 for 1")


@pytest.mark.parametrize("error", [InputError("a fault of all images"), StorageError("the disk is full")])
def test_faults_that_are_not_the_images_pass(error: Exception) -> None:
    with pytest.raises(type(error), match=str(error)):
        calls_of(3, lambda part: error)


@given(
    num_images=st.integers(1, 40),
    failing=st.sets(st.integers(0, 39)),
    most=st.integers(1, 40),
    is_for_memory=st.booleans(),
)
def test_every_image_gets_its_own_result(num_images: int, failing: set[int], most: int, is_for_memory: bool) -> None:
    """The model fails at some images, and has memory for a few."""

    def error_at(part: range) -> Exception | None:
        if len(part) > most:
            return MemoryError()
        return (MemoryError() if is_for_memory else ValueError("no")) if failing & set(part) else None

    found, parts = calls_of(num_images, error_at)
    assert [isinstance(one, ModelImageError) for one in found] == [place in failing for place in range(num_images)]
    assert all(one == 10 * place for place, one in enumerate(found) if place not in failing)
    assert len(parts) <= 2 * num_images

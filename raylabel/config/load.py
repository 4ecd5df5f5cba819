"""Strict readers of a config: from a YAML file, from YAML bytes, from a mapping. And the way back.

An unknown key is an error that names the nearest valid key.
"""

import difflib
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

import yaml
from pydantic import TypeAdapter, ValidationError

from raylabel.config.run import Config
from raylabel.config.training import has_weights_name
from raylabel.config.yaml_text import parse_yaml
from raylabel.errors import InputError, shown, shown_name
from raylabel.files.file_systems import expanded


def load_config(path: str | Path, overrides: Mapping[str, Any] | None = None) -> Config:
    """Read and check a YAML config.

    Args:
        path: local YAML file. Relative paths under `data`, `weights` and `embedder` are relative to its folder; `out`
            is relative to the working directory.
        overrides: value or YAML text per dotted key, such as {"teacher.steps": 100}.

    Raises:
        InputError: the file is missing or not YAML, a key is unknown, or a value has the wrong type or is out of its
            range. The message names the nearest valid key.

    Examples:
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> import raylabel as rl
        >>> with TemporaryDirectory() as folder:
        ...     path = Path(folder, "config.yaml")
        ...     text = "data: {labelled: a.json, images: im, calibration: b.json, validation: c.json, pool: im}"
        ...     _ = path.write_text(text)
        ...     config = rl.load_config(path, {"teacher.steps": "2000"})
        >>> config.teacher.steps
        2000
    """
    path = Path(path)
    if path.is_dir():
        raise InputError(f"{path}: is a folder. Give the YAML file of a config.")
    if not path.is_file():
        raise InputError(f"{path}: no such config file")
    return resolve_paths(config_from_yaml(path.read_bytes(), str(path), overrides), base=path.parent.absolute())


def config_from_yaml(content: bytes, source: str, overrides: Mapping[str, Any] | None = None) -> Config:
    """Read and check the YAML text of a config. Relative paths stay relative.

    Args:
        content: see `parse_yaml`.
        source: file name or URI, for messages.
        overrides: see `load_config`.

    Raises:
        InputError: see `load_config`.
    """
    settings = parse_yaml(content, source) or {}
    if not isinstance(settings, dict):
        raise InputError(f"{source}: must be a mapping of settings, got {type(settings).__name__}")
    for dotted, text in (overrides or {}).items():
        _set(settings, dotted, text)
    return parse_config(settings, source=source)


def parse_config(settings: dict[str, Any], *, source: str = "config") -> Config:
    """Turn a mapping into a checked Config.

    Args:
        settings: section -> its settings.
        source: name of the mapping, for messages.

    Raises:
        InputError: see `load_config`.
    """
    _refuse_unknown(Config, settings, prefix="", source=source)
    try:
        return TypeAdapter(Config).validate_python(settings)
    except ValidationError as error:
        first = max(error.errors(), key=lambda one: len(one["loc"]))
        if isinstance(first.get("ctx", {}).get("error"), InputError):
            raise InputError(f"{source}: {first['ctx']['error']}") from None
        location = ".".join(str(part) for part in first["loc"] if str(part) in _key_names(Config) or "." in str(part))
        message = first["msg"][0].lower() + first["msg"][1:]
        if first["type"] == "missing":
            raise InputError(f"{source}: {location or first['loc'][-1]} is required") from None
        raise InputError(f"{source}: {location}: {message}, got {shown(first['input'])}") from None


def dump_config(config: Config) -> str:
    """Return every setting as YAML. `config_from_yaml` reads it back to an equal Config."""
    return yaml.safe_dump(config_dict(config), sort_keys=False, allow_unicode=True)


def config_dict(config: Any) -> dict[str, Any]:
    """Return a config, or a section of one, as a plain dictionary."""
    return TypeAdapter(type(config)).dump_python(config, mode="json")


def resolve_paths(config: Config, base: Path) -> Config:
    """Make relative paths absolute, starting from `base`. URIs and names of weights stay."""

    def absolute(text: Any) -> Any:
        if isinstance(text, list):
            return [absolute(one) for one in text]
        if isinstance(text, dict) and "file" in text:
            return text | {"file": absolute(text["file"])}
        if not isinstance(text, str) or "://" in text or has_weights_name(text):
            return text
        return str((base / expanded(text)).resolve()) if not Path(text).is_absolute() else text

    settings = config_dict(config)
    for name in ("labelled", "images", "calibration", "validation", "pool", "pool_truth", "allowed_roots"):
        settings["data"][name] = absolute(settings["data"][name])
    for section, name in (("teacher", "weights"), ("student", "weights"), ("smoothing", "embedder")):
        settings[section][name] = absolute(settings[section][name])
    return parse_config(settings)


def _set(settings: dict[str, Any], dotted: str, text: Any) -> None:
    *parents, last = dotted.split(".")
    place = settings
    for depth, name in enumerate(parents, start=1):
        place = place.setdefault(name, {})
        if not isinstance(place, dict):
            whole = ".".join(parents[:depth])
            raise InputError(
                f"--{dotted}: {whole} must be a section, got {shown(place)}. Give all of it, as --{whole} '{{...}}'."
            )
    place[last] = parse_yaml(text, f"--{dotted}") if isinstance(text, str) else text


def _sections(annotation: Any) -> list[type]:
    """Return the config classes that a field's annotation allows."""
    if get_origin(annotation) in (Union, UnionType, Annotated):
        return [found for part in get_args(annotation) for found in _sections(part)]
    return [annotation] if is_dataclass(annotation) and isinstance(annotation, type) else []


def _refuse_unknown(section: type, settings: dict[str, Any], *, prefix: str, source: str) -> None:
    hints = get_type_hints(section)
    names = [field.name for field in fields(section)]
    for key, value in settings.items():
        if key not in names:
            near = difflib.get_close_matches(str(key), names, n=1, cutoff=0.5)
            hint = f"Did you mean {prefix}{near[0]}?" if near else f"Valid names: {', '.join(names)}"
            raise InputError(f"{source}: unknown key {prefix}{shown_name(key)}. {hint}")
        inner = _sections(hints[key])
        if inner and isinstance(value, dict):
            _refuse_unknown(inner[0], value, prefix=f"{prefix}{key}.", source=source)
        elif inner and value is None and not {str, NoneType} & set(get_args(hints[key])):
            settings[key] = {}


def _key_names(section: type) -> set[str]:
    names = {field.name for field in fields(section)}
    for annotation in get_type_hints(section).values():
        for inner in _sections(annotation):
            names |= _key_names(inner)
    return names

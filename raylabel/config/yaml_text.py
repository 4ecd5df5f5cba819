"""The one parser of YAML that users write: every fault is one line that names the file or option."""

import math
from collections import Counter
from itertools import chain
from typing import Any

import yaml

from raylabel.errors import InputError, shown, shown_error

MAX_VALUES = 100_000
"""Most values and keys of a file. Each alias counts as all that it stands for, because a few lines of aliases of
aliases stand for billions of values. A long text counts as one value per 100 characters."""


def parse_yaml(content: bytes | str, where: str) -> Any:
    """Parse YAML text.

    Args:
        content: UTF-8 text, or UTF-16 text with a byte order mark; or text.
        where: the file or option, for messages.

    Raises:
        InputError: the text is not YAML, a key is given twice in one mapping, a number has thousands of digits, the
            nesting is too deep, a text is not Unicode, or there are more than `MAX_VALUES` values.
    """
    try:
        return yaml.load(content, _Loader)
    except RecursionError:
        raise InputError(f"{where}: not usable YAML: lists or mappings are nested too deeply") from None
    except (yaml.YAMLError, ValueError, LookupError, AttributeError, TypeError) as error:
        # ValueError: an impossible date, a number of thousands of digits. The others: a tag that its value can't have.
        raise InputError(f"{where}: not YAML: {shown_error(error)}") from error


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader. It also refuses repeated keys, and values that no file could store."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        names = Counter(key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode))
        for name, count in names.most_common(1):
            if count > 1:
                raise yaml.YAMLError(f"the key {shown(name)} is given {count} times in one mapping")
        return node

    def construct_document(self, node: yaml.Node) -> Any:
        if _num_values(node, {}) > MAX_VALUES:
            raise yaml.YAMLError(f"must have at most {MAX_VALUES} values, those of aliases included")
        return super().construct_document(node)

    def construct_scalar(self, node: Any) -> Any:
        value = super().construct_scalar(node)
        value.encode()  # raises UnicodeEncodeError for half a surrogate pair
        return value

    def construct_yaml_int(self, node: Any) -> int:
        value = super().construct_yaml_int(node)
        str(value)  # raises ValueError for thousands of digits, which may have been given in base 16 or 60
        return value


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)


def _num_values(node: yaml.Node, known: dict[int, float]) -> float:
    """Count the values below a node, infinite if it is an alias of what it lies in. `known` has the counts by node."""
    if isinstance(node, yaml.ScalarNode):
        return 1 + len(node.value) // 100
    if id(node) not in known:
        known[id(node)] = math.inf
        parts = chain.from_iterable(node.value) if isinstance(node, yaml.MappingNode) else node.value
        known[id(node)] = 1 + sum(_num_values(part, known) for part in parts)
    return known[id(node)]

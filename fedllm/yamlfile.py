"""YAML as every part of fedllm reads it: plain values, and no key twice.

YAML itself forbids a key that occurs twice in one mapping; PyYAML keeps the last and drops the
others in silence.
"""

from __future__ import annotations

from typing import Any

import yaml


def parse_yaml(text: str) -> Any:
    """The value that ``text`` spells.

    Raises:
        ValueError: It is no YAML, names a key twice or nests too deep; the message is one line.
    """
    try:
        return yaml.load(text, Loader=_Loader)  # noqa: S506, a SafeLoader
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from None
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


class _Loader(yaml.SafeLoader):
    """A ``SafeLoader`` that refuses a key that occurs twice; ``<<`` may still be overridden."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen: dict[tuple[str, str], int] = {}
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                name, line = (key.tag, key.value), key.start_mark.line + 1
                if name in seen:
                    raise yaml.YAMLError(
                        f"line {line}: key '{key.value}' occurs twice (first in line "
                        f"{seen[name]}); remove one"
                    )
                seen[name] = line
        return node

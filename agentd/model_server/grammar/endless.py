"""Parts of a schema that no answer could get out of again, such as a node that requires a node."""

from collections.abc import Callable

from agentd.json_schema.bounds import Schema


def prune(schema: Schema, endless: Callable[[Schema], bool]) -> None:
    """Take out of a plain schema, in place, what may be left out of an answer and has no end."""
    seen: set[int] = set()
    waiting = [schema]
    while waiting:
        node = waiting.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        for key in ("anyOf", "prefixItems"):
            if key in node:
                _shorten(node, key, endless)
                waiting += node[key]
        for key in ("items", "additionalProperties"):
            if node.get(key):
                node[key] = False if endless(node[key]) else node[key]
                waiting += [node[key]] if node[key] else []
        if node.get("items") is False:
            node["maxItems"] = min(node["maxItems"], len(node.get("prefixItems", ())))
        for key in ("properties", "patternProperties", "$defs"):
            for name, inner in node.get(key, {}).items():
                if inner and endless(inner):
                    node[key][name] = False
                elif inner:
                    waiting.append(inner)


def _shorten(node: Schema, key: str, endless: Callable[[Schema], bool]) -> None:
    """Take what has no end out of a list: of its first items all that come behind it as well."""
    ends = [not endless(one) for one in node[key]]
    if key == "anyOf":
        node[key] = [one for one, has in zip(node[key], ends, strict=True) if has]
    elif False in ends:
        node[key], node["items"] = node[key][: ends.index(False)], False

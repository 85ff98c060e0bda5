"""Prompt caches: what was prefilled once is not prefilled again.

One tree holds them all. A node is a run of tokens with what the model's layers computed for it;
the path from the root to a node is a prompt's beginning. Agents and sessions that begin alike share
those nodes, so a fixed part is stored once, and a growing log adds only its new end. Nodes are
found by comparing tokens, so no content can leak into another's answer.

Key-value layers are cut anywhere. Layers that hold one state only (sliding windows, recurrent ones:
Gemma 3, Qwen 3.5, LFM2) cannot be cut back: of them a node keeps the state at its end, where the
prefill left a checkpoint, and a prompt can go on from there alone.
"""

import copy
import heapq
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx
import numpy as np
from mlx_lm.models.cache import KVCache
from numpy.typing import NDArray

from agentd.model_server.engine.rows_cache import room_for

Layers = list[Any]  # one mlx_lm cache object per layer, of one row
Tokens = NDArray[np.int32]
Slices = list[tuple[mx.array, mx.array] | None]  # per layer: keys and values of a node's tokens
States = list[Any]  # per layer that cannot be cut: its cache as it was; None for the others

CHECKPOINTS_KEPT = 2  # at the end of a path, besides its first
WORTH_REUSING = 4  # tokens; a shorter beginning saves nothing


@dataclass(eq=False)
class Node:
    """A run of tokens behind its parent's."""

    tokens: Tokens
    slices: Slices
    parent: "Node | None"
    states: States | None = None  # at the run's end; None: no prompt can go on from here
    used: int = 0  # when, in uses of the tree
    guest: bool = False  # of other programs' prompts alone
    bytes: int = 0
    children: dict[int, "Node"] = field(default_factory=dict)  # by their first token


class PromptCaches:
    """The tree, bounded in bytes; the leaf that was not used for longest goes first.

    Of what other programs than agents put there, where that is more than half: however many prompts
    they send, agents keep the other half.

    `make_layers` returns a row's empty caches. Not thread-safe.
    """

    def __init__(self, limit_bytes: int, make_layers: Callable[[], Layers]) -> None:
        self.limit_bytes = limit_bytes
        self.bytes = 0
        self.tokens = 0
        self.changed = False  # since it was saved or loaded
        self.empty_layers = make_layers
        self._cuttable = [type(layer) is KVCache for layer in make_layers()]
        self.whole = all(self._cuttable)  # no layer needs checkpoints
        self._root = Node(np.empty(0, np.int32), [], None)
        self._uses = 0

    def take(self, prompt: Sequence[int]) -> tuple[Layers, int]:
        """Return layers that hold the longest known beginning of `prompt`, and its length.

        They are the caller's own. One token at least is left over: the model goes on from it.
        """
        path, size = self._known(prompt, used=True)
        layers = self.empty_layers()
        if path:
            path[-1][0].used = self._uses
        if not size:
            return layers, 0
        for at, layer in enumerate(layers):
            if self._cuttable[at]:
                parts = [_head(node.slices[at], count) for node, count in path]
                layer.keys, layer.values = (
                    _joined([part[side] for part in parts], room_for(len(prompt)))
                    for side in (0, 1)
                )
                layer.offset = size
            else:
                states = path[-1][0].states
                assert states is not None
                layers[at] = copy.deepcopy(states[at])
        return layers, size

    def known(self, prompt: Sequence[int]) -> int:
        """Return the length of the beginning that `take` would give."""
        return self._known(prompt, used=False)[1]

    def put(
        self,
        tokens: Sequence[int],
        layers: Layers,
        states: Mapping[int, States] | None = None,
        *,
        guest: bool = False,
    ) -> None:
        """Keep what a prefill left: `layers` hold exactly `tokens`. `guest`: of no agent.

        `states` are the checkpoints by their position, as `checkpoint` gave them; without one
        nothing is kept of a model that needs them.
        """
        run = np.asarray(tokens, np.int32)
        if self.whole:
            self._insert(run, layers, guest)
        for position, found in sorted((states or {}).items()):
            node = self._insert(run[:position], layers, guest)
            if node is not None and node.states is None:
                node.states = found
                self._weigh(node)
        if states:
            self._drop_superseded(run[: max(states)])
        for node, _count in [] if guest else self._walk(run)[0]:
            node.guest = False
        self._evict()

    def _drop_superseded(self, run: Tokens) -> None:
        """Keep a path's first checkpoint and its last ones; a log goes on from its end.

        Nodes with several children keep theirs: there others begin.
        """
        path, _size = self._walk(run)
        kept = [node for node, _count in path if node.states is not None]
        for node in kept[1:-CHECKPOINTS_KEPT]:
            if len(node.children) == 1:
                node.states = None
                self._weigh(node)

    def checkpoint(self, layers: Layers) -> States:
        """Return copies of the layers that cannot be cut."""
        return [
            None if cuttable else copy.deepcopy(layer)
            for layer, cuttable in zip(layers, self._cuttable, strict=True)
        ]

    def clear(self) -> None:
        """Forget all."""
        self._root.children.clear()
        self.bytes = self.tokens = 0

    def nodes(self) -> list[Node]:
        """Return all nodes, parents before their children."""
        found, at = [self._root], 0
        while at < len(found):
            found += found[at].children.values()
            at += 1
        return found[1:]

    def graft(self, tokens: Tokens, slices: Slices, parent: Node | None, states: Any) -> Node:
        """Add a node that was saved; see prompt_cache_file.py."""
        node = Node(tokens, slices, parent or self._root, states, self._uses)
        self._attach(node)
        return node

    def _known(self, prompt: Sequence[int], used: bool) -> tuple[list[tuple[Node, int]], int]:
        """Return the nodes that `prompt` can go on from, how much of each, and the sum of that."""
        path, size = self._walk(np.asarray(prompt, np.int32)[:-1], used)
        if not self.whole:
            while path and (path[-1][0].states is None or path[-1][1] < len(path[-1][0].tokens)):
                size -= path.pop()[1]
        return path, size if size >= WORTH_REUSING else 0

    def _walk(self, wanted: Tokens, used: bool = True) -> tuple[list[tuple[Node, int]], int]:
        """Return the nodes that `wanted` begins with, how much of each, and the sum of that.

        `used`: whether they count as used by this.
        """
        self._uses += used
        node, size, path = self._root, 0, []
        while size < len(wanted) and (child := node.children.get(int(wanted[size]))) is not None:
            count = common(child.tokens, wanted[size:])
            path.append((child, count))
            size += count
            if count < len(child.tokens):
                break
            if used:
                child.used = self._uses
            node = child
        return path, size

    def _insert(self, run: Tokens, layers: Layers, guest: bool) -> Node | None:
        """Make `run` end at a node's end, and return that node; None: it is too large to keep."""
        path, size = self._walk(run)
        node = path[-1][0] if path else self._root
        if path and path[-1][1] < len(node.tokens):
            node = self._split(node, path[-1][1])
        if size == len(run):
            return node if path else None
        slices: Slices = [
            (_cut(layer.keys, size, len(run)), _cut(layer.values, size, len(run)))
            if cuttable
            else None
            for layer, cuttable in zip(layers, self._cuttable, strict=True)
        ]
        leaf = Node(run[size:].copy(), slices, node, used=self._uses, guest=guest)
        if _bytes(leaf) > self.limit_bytes:
            return None
        mx.eval(slices)  # else the leaf would hold on to all that the row ever computed
        self._attach(leaf)
        return leaf

    def _split(self, node: Node, at: int) -> Node:
        """Cut a node in two; return the upper one."""
        slices: Slices = [
            None if s is None else (_cut(s[0], 0, at), _cut(s[1], 0, at)) for s in node.slices
        ]
        lower: Slices = [
            None
            if s is None
            else (_cut(s[0], at, len(node.tokens)), _cut(s[1], at, len(node.tokens)))
            for s in node.slices
        ]
        mx.eval(slices, lower)
        assert node.parent is not None
        upper = Node(node.tokens[:at].copy(), slices, node.parent, None, self._uses, node.guest)
        node.parent.children[int(upper.tokens[0])] = upper
        node.tokens, node.slices, node.parent = node.tokens[at:].copy(), lower, upper
        upper.children[int(node.tokens[0])] = node
        self._weigh(node)
        self._weigh(upper)
        return upper

    def _attach(self, node: Node) -> None:
        assert node.parent is not None
        self.changed = True
        node.parent.children[int(node.tokens[0])] = node
        self.tokens += len(node.tokens)
        self._weigh(node)

    def _weigh(self, node: Node) -> None:
        self.bytes -= node.bytes
        node.bytes = _bytes(node)
        self.bytes += node.bytes

    def _evict(self) -> None:
        if self.bytes <= self.limit_bytes:
            return
        guests = sum(node.bytes for node in self.nodes() if node.guest)
        heaps: tuple[list[tuple[int, int, Node]], ...] = ([], [])  # leaves of agents, of guests
        for node in self.nodes():
            if not node.children:
                heaps[node.guest].append((node.used, id(node), node))
        for heap in heaps:
            heapq.heapify(heap)
        while self.bytes > self.limit_bytes and any(heaps):
            too_many = heaps[True] and guests > self.limit_bytes // 2
            heap = heaps[True] if too_many else min(filter(None, heaps))
            node = heapq.heappop(heap)[2]
            parent = node.parent
            assert parent is not None
            del parent.children[int(node.tokens[0])]
            self.bytes -= node.bytes
            guests -= node.bytes * node.guest
            self.tokens -= len(node.tokens)
            if parent is not self._root and not parent.children:
                heapq.heappush(heaps[parent.guest], (parent.used, id(parent), parent))


def common(left: Sequence[int] | Tokens, right: Sequence[int] | Tokens) -> int:
    """Return how many tokens two runs have in common at their beginning."""
    size = min(len(left), len(right))
    different = np.flatnonzero(np.asarray(left[:size]) != np.asarray(right[:size]))
    return int(different[0]) if len(different) else size


def _cut(array: mx.array, start: int, stop: int) -> mx.array:
    """Return a part along the tokens that does not hold on to the whole."""
    return mx.contiguous(array[..., start:stop, :])


def _head(pair: tuple[mx.array, mx.array] | None, count: int) -> tuple[mx.array, mx.array]:
    assert pair is not None
    return pair[0][..., :count, :], pair[1][..., :count, :]


def _joined(parts: list[mx.array], columns: int) -> mx.array:
    """Return parts one behind the other, with room for more: so they are copied once."""
    known = sum(part.shape[2] for part in parts)
    shape = (*parts[0].shape[:2], columns - known, parts[0].shape[3])
    return mx.concatenate([*parts, mx.zeros(shape, parts[0].dtype)], axis=2)


def _bytes(node: Node) -> int:
    pairs = sum(pair[0].nbytes + pair[1].nbytes for pair in node.slices if pair is not None)
    states = sum(int(state.nbytes) for state in node.states or () if state is not None)
    return pairs + states

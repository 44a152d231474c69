"""Shapes of the canonical transformer as frozen, JSON-serialisable data.

A model is rebuilt from its spec and a state dict; nothing else is stored. Field names follow the literature: embed
(width of the residual stream), heads, head_dim, neurons (MLP width).
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

NormKind = Literal["layer", "rms"]
Activation = Literal["gelu", "gelu_tanh", "relu", "silu", "quick_gelu", "tanh"]


@dataclass(frozen=True)
class InputSpec:
    """The one tensor that travels to every member: name, dtype as numpy calls it, shape without the batch axis."""

    name: str
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class NormSpec:
    """A norm over the last axis of `width` elements; `affine` means gain (and bias, for "layer")."""

    width: int
    kind: NormKind = "layer"
    eps: float = 1e-6
    affine: bool = True


@dataclass(frozen=True)
class WindowSpec:
    """Attention within windows of a grid of tokens (Swin).

    Attributes:
        grid: tokens (down, across); they are in rows.
        size: tokens (down, across) of one window; whole windows fill the grid.
        shift: by how many tokens (down, across) the windows are moved, around the edges of the grid. Tokens that
            come together only because of that do not see each other.
    """

    grid: tuple[int, int]
    size: tuple[int, int]
    shift: tuple[int, int]

    @property
    def windows(self) -> int:
        """Number of windows."""
        return math.prod(self.grid) // self.tokens

    @property
    def tokens(self) -> int:
        """Tokens of one window."""
        return math.prod(self.size)


@dataclass(frozen=True)
class AttentionSpec:
    """Multi-head self attention.

    Attributes:
        embed: width of the stream that is read.
        heads, head_dim: number and width of the heads.
        out: width of the stream that is written.
        reader_bias, writer_bias: whether the linears have a bias.
        query_norm: normalises queries and keys per head (timm's qk_norm), or none.
        score_bias: tokens on a side of the bias `(heads, tokens, tokens)` that is added to the scores, or none.
        window: the windows that tokens attend within, or none where each attends to all.
        causal: each token attends to itself and to those before it.
    """

    embed: int
    heads: int
    head_dim: int
    out: int
    reader_bias: bool = True
    writer_bias: bool = True
    query_norm: NormSpec | None = None
    score_bias: int | None = None
    window: WindowSpec | None = None
    causal: bool = False


@dataclass(frozen=True)
class CrossAttentionSpec:
    """Multi-head attention of one stream to another one, the memory that an encoder leaves behind.

    Attributes:
        embed: width of the stream that is read for the queries.
        memory: width of the memory, which is read for keys and values.
        tokens: of the memory.
        heads, head_dim: number and width of the heads.
        out: width of the stream that is written.
        reader_bias, memory_bias, writer_bias: whether the linears have a bias.
    """

    embed: int
    memory: int
    tokens: int
    heads: int
    head_dim: int
    out: int
    reader_bias: bool = True
    memory_bias: bool = True
    writer_bias: bool = True


@dataclass(frozen=True)
class MlpSpec:
    """Two linears with an activation between them.

    Attributes:
        embed: width of the stream that is read.
        neurons: hidden units.
        out: width of the stream that is written.
        activation: of the hidden units.
        reader_bias, writer_bias: whether the linears have a bias.
        gated: a neuron is `activation(gate) · value`, and the reader gives all gates, then all values (GEGLU, SwiGLU).
    """

    embed: int
    neurons: int
    out: int
    activation: Activation = "gelu"
    reader_bias: bool = True
    writer_bias: bool = True
    gated: bool = False


BranchSpec = AttentionSpec | CrossAttentionSpec | MlpSpec
Kind = Literal["attention", "cross", "mlp"]


@dataclass(frozen=True)
class ResidualSpec:
    """One residual sub-block of the teacher's layer `layer`.

    Attributes:
        layer: see above.
        norm: in front of the branch, or none.
        branch: what is added.
        shortcut: a matrix in place of the identity.
        post_norm: the shortcut starts behind the norm, `n + branch(n)` with `n = norm(x)`. A chain of these is a
            post-norm transformer (BERT) seen from sum to sum: its norm after a sum is the next sub-block's norm.
    """

    layer: int
    norm: NormSpec | None
    branch: BranchSpec
    shortcut: bool = False
    post_norm: bool = False

    @property
    def kind(self) -> Kind:
        """Which branch this is."""
        if isinstance(self.branch, AttentionSpec):
            return "attention"
        return "cross" if isinstance(self.branch, CrossAttentionSpec) else "mlp"


@dataclass(frozen=True)
class MergeSpec:
    """From one stage to the next: each two by two neighbouring tokens become one of another width (Swin).

    Attributes:
        grid: tokens (down, across) before, both even.
        embed: width of the stream before.
        norm: over the four tokens side by side, so of width 4 · embed.
        out: width of the stream behind.
        bias: whether the linear has one.
    """

    grid: tuple[int, int]
    embed: int
    norm: NormSpec
    out: int
    bias: bool = False


@dataclass(frozen=True)
class PatchStemSpec:
    """Pixels to tokens: patch embedding, prefix tokens, positions; optionally a norm and a linear behind it.

    Attributes:
        image_size: (height, width) in pixels.
        patch_size: (height, width) in pixels.
        channels: colour channels.
        embed: width of the embedding (before `mix`).
        prefix: number of tokens before the patches (class, distillation, register tokens).
        norm: norm over the tokens (CLIP's pre-norm), or none.
        mix: width after a linear behind the norm, or none where there is no such linear.
        positions: whether the patches have a table of positions.
    """

    image_size: tuple[int, int]
    patch_size: tuple[int, int]
    channels: int
    embed: int
    prefix: int
    norm: NormSpec | None = None
    mix: int | None = None
    positions: bool = True

    @property
    def grid(self) -> tuple[int, int]:
        """Patches down and across."""
        return self.image_size[0] // self.patch_size[0], self.image_size[1] // self.patch_size[1]

    @property
    def tokens(self) -> int:
        """Length of the sequence: prefix tokens and patches."""
        return self.prefix + self.grid[0] * self.grid[1]

    @property
    def out(self) -> int:
        """Width of the stream that leaves the stem."""
        return self.embed if self.mix is None else self.mix

    @property
    def input(self) -> InputSpec:
        """Pixels `(channels, height, width)`."""
        return InputSpec("pixels", "uint8", (self.channels, *self.image_size))


@dataclass(frozen=True)
class TokenStemSpec:
    """Token numbers to tokens: word, position and type embeddings; optionally a norm and a linear behind them.

    Attributes:
        length: tokens in a sequence; shorter ones are filled up with `pad`.
        vocabulary: number of words.
        pad: the word that stands for no token.
        embed: width of the embedding (before `mix`).
        types: token types that the input tells apart in a second row (2 for pairs of texts); 1 for no such row.
        norm: norm over the tokens, or none.
        mix: width after a linear behind the norm (ELECTRA's projection), or none where there is no such linear.
        positions: whether there is a table of positions; T5 has them in its attention's scores.
        before, behind: numbers of the input in front of those that this stem reads, and behind them: they are another
            stem's. In front of a decoder's text stands what its encoder reads.
    """

    length: int
    vocabulary: int
    pad: int
    embed: int
    types: int = 1
    norm: NormSpec | None = None
    mix: int | None = None
    positions: bool = True
    before: int = 0
    behind: int = 0

    @property
    def tokens(self) -> int:
        """Length of the sequence."""
        return self.length

    @property
    def out(self) -> int:
        """Width of the stream that leaves the stem."""
        return self.embed if self.mix is None else self.mix

    @property
    def input(self) -> InputSpec:
        """Token numbers `(length,)`, or `(2, length)` with the types in the second row; other stems' beside them."""
        along = self.before + self.length + self.behind
        return InputSpec("ids", "int32", (along,) if self.types == 1 else (2, along))


StemSpec = PatchStemSpec | TokenStemSpec


@dataclass(frozen=True)
class BridgeSpec:
    """From an encoder to its decoder: the normed stream becomes the memory, and the stream of another text begins.

    Attributes:
        norm: the encoder's final norm; the memory is what it gives.
        stem: the decoder's, without norm and mix; it reads the same input, behind what the encoder reads.
        start: the word that the decoder's texts begin with.
    """

    norm: NormSpec
    stem: TokenStemSpec
    start: int


@dataclass(frozen=True)
class PoolSpec:
    """Stream to features.

    Attributes:
        kind: "prefix" takes the first `count` tokens side by side; "mean" averages all tokens from `count` on, without
            padding; "causal" takes every token as it is, and of a graph the last one that is no padding: what follows
            it is asked for.
        count: see `kind`.
        norm: the final norm, or none.
        norm_first: whether the norm runs over tokens before pooling (else over the pooled vector).
    """

    kind: Literal["prefix", "mean", "causal"]
    count: int
    norm: NormSpec | None
    norm_first: bool


@dataclass(frozen=True)
class HeadSpec:
    """Features to answers.

    Attributes:
        classes: number of outputs.
        hidden: width of a pooler, that is a linear and an activation in front of the last linear; none without one.
        activation: the pooler's.
        normalise: divide the answer by its length, as sentence embeddings are.
    """

    classes: int
    hidden: int | None = None
    activation: Activation = "tanh"
    normalise: bool = False


@dataclass(frozen=True)
class TransformerSpec:
    """A whole model: stem, blocks, pool and head.

    The blocks are residual sub-blocks; where a merge or a bridge stands between them, a new stage begins, whose stream
    has other tokens and another width.
    """

    stem: StemSpec
    blocks: tuple[ResidualSpec | MergeSpec | BridgeSpec, ...]
    pool: PoolSpec
    head: HeadSpec

    @property
    def classes(self) -> int:
        """Number of the head's outputs."""
        return self.head.classes

    @property
    def post_norm(self) -> bool:
        """Whether shortcuts start behind norms, so that every basis of the stream needs a matrix to the next."""
        return any(block.post_norm for block in self.residuals)

    @property
    def residuals(self) -> tuple[ResidualSpec, ...]:
        """The residual sub-blocks."""
        return tuple(block for block in self.blocks if isinstance(block, ResidualSpec))

    @property
    def embeds(self) -> tuple[int, ...]:
        """Width of the stream at the end of each stage."""
        widths = [self.stem.out]
        for block in self.blocks:
            if isinstance(block, ResidualSpec):
                widths[-1] = block.branch.out
            else:
                widths.append(block.out if isinstance(block, MergeSpec) else block.stem.out)
        return tuple(widths)

    @property
    def embed(self) -> int:
        """Width of the stream that enters the pool."""
        return self.embeds[-1]

    @property
    def stages(self) -> tuple[int, ...]:
        """The stage of every block, and, last, that of the pool; merge and bridge belong to the stage that they end."""
        found = [0]
        for block in self.blocks:
            found.append(found[-1] + (not isinstance(block, ResidualSpec)))
        return tuple(found)

    @property
    def block_names(self) -> tuple[str, ...]:
        """Names of the blocks: "layers.3.mlp", and "stages.1.merge" for the merge that ends stage 1."""
        ends = {MergeSpec: "merge", BridgeSpec: "bridge"}
        return tuple(
            f"layers.{block.layer}.{block.kind}"
            if isinstance(block, ResidualSpec)
            else f"stages.{stage}.{ends[type(block)]}"
            for stage, block in zip(self.stages, self.blocks, strict=False)
        )

    @property
    def bridge(self) -> BridgeSpec | None:
        """What joins encoder and decoder; None for models of one of them."""
        return next((block for block in self.blocks if isinstance(block, BridgeSpec)), None)

    @property
    def texts(self) -> StemSpec:
        """The stem of the text that a causal model continues: the decoder's where there is an encoder."""
        return self.stem if self.bridge is None else self.bridge.stem

    @property
    def layers(self) -> tuple[int, ...]:
        """The teacher's layers that are present, in order."""
        return tuple(dict.fromkeys(block.layer for block in self.residuals))

    @property
    def features(self) -> int:
        """Number of features that the pool gives."""
        return self.embed * (self.pool.count if self.pool.kind == "prefix" else 1)

    def to_json(self) -> dict[str, Any]:
        """A plain dict for `json.dumps`."""
        return asdict(self)

"""Parts of transformer layers that cores share."""

import torch
from jaxtyping import Float
from torch import Tensor, nn


def feed_forward(width: int, ff_width: int) -> nn.Sequential:
    """The feed-forward half of a layer, without norm and residual."""
    return nn.Sequential(nn.Linear(width, ff_width), nn.ReLU(), nn.Linear(ff_width, width))


def initialise_attention(query_key_value: nn.Linear, output: nn.Linear) -> None:
    """Let queries, keys and values keep the size of their input, and the output [D, D + H] read no counts.

    torch's default is smaller: attention starts nearly uniform, and choosing Corridor's door took a bandit version of
    it twice as many episodes to learn.
    """
    width = output.out_features
    for block in query_key_value.weight.data.split(width):
        nn.init.orthogonal_(block)
    nn.init.zeros_(query_key_value.bias)
    nn.init.zeros_(output.weight[:, width:].detach())


class Residual(nn.Module):
    """x + y, the usual way in which a layer's half joins the stream."""

    def forward(self, x: Float[Tensor, "B *T D"], y: Float[Tensor, "B *T D"]) -> Float[Tensor, "B *T D"]:
        """The stream `x` after the half's output `y`."""
        return x + y


class GatedResidual(nn.Module):
    """A GRU's gates in place of the residual, as in GTrXL (Parisotto et al., 2020, section 3.2.2).

    r = s(W_r y + U_r x), z = s(W_z y + U_z x - b), h = tanh(W_g y + U_g (r * x)), output (1 - z) x + z h.  With b at 2
    a layer begins close to the identity.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.of_y = nn.Linear(width, 3 * width, bias=False)
        self.of_x = nn.Linear(width, 2 * width, bias=False)
        self.of_reset = nn.Linear(width, width, bias=False)
        self.bias = nn.Parameter(torch.full((width,), 2.0))

    def forward(self, x: Float[Tensor, "B *T D"], y: Float[Tensor, "B *T D"]) -> Float[Tensor, "B *T D"]:
        """The stream `x` after the half's output `y`, which goes through a ReLU first."""
        reset_y, update_y, new_y = self.of_y(y.relu()).chunk(3, -1)
        reset_x, update_x = self.of_x(x).chunk(2, -1)
        reset, update = torch.sigmoid(reset_y + reset_x), torch.sigmoid(update_y + update_x - self.bias)
        return (1 - update) * x + update * torch.tanh(new_y + self.of_reset(reset * x))


class Block(nn.Module):
    """What a layer has around its memory: a norm, a way to join what was read, and a feed-forward half.

    With `heads` it has the projections of attention too: `query_key_value`, and `output` of what was read [D + H].
    `gated` puts a GRU's gates in place of the residuals.  Without `pre_norm` the output of each half is normalised
    instead of its input, as the first transformers did.  Dropout is that of both halves' outputs, in training only;
    that of the weights of attention and of the ReLU's output is set by `regularise`.
    """

    def __init__(
        self,
        width: int,
        ff_width: int,
        heads: int | None = None,
        *,
        gated: bool = False,
        pre_norm: bool = True,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.norm, self.feed_forward_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        if heads is not None:
            self.query_key_value, self.output = nn.Linear(width, 3 * width), nn.Linear(width + heads, width)
        self.feed_forward = feed_forward(width, ff_width)
        if heads is not None:
            initialise_attention(self.query_key_value, self.output)
        self.dropout = nn.Dropout(dropout)
        self.join, self.join_feed_forward = (GatedResidual(width) if gated else Residual() for _ in range(2))
        self.pre_norm = pre_norm
        self.attention_dropout = self.activation_dropout = 0.0

    def normed(self, x: Float[Tensor, "B *T D"]) -> Float[Tensor, "B *T D"]:
        """What the memory is made from and asked by: the input after the norm where that comes first."""
        return self.norm(x) if self.pre_norm else x

    def joined(self, x: Float[Tensor, "B *T D"], read: Float[Tensor, "B *T D"]) -> Float[Tensor, "B *T D"]:
        """The stream `x` after what the layer read and after its feed-forward half."""
        x = self.join(x, self.dropout(read))
        if self.pre_norm:
            return self.join_feed_forward(x, self.dropout(self._fed(self.feed_forward_norm(x))))
        x = self.norm(x)
        return self.feed_forward_norm(self.join_feed_forward(x, self.dropout(self._fed(x))))

    @property
    def dropped_weights(self) -> float:
        """The share of the weights of attention that is dropped now."""
        return self.attention_dropout if self.training else 0.0

    def _fed(self, x: Float[Tensor, "B *T D"]) -> Float[Tensor, "B *T D"]:
        """What the feed-forward half makes of `x`."""
        if not (self.training and self.activation_dropout):
            return self.feed_forward(x)
        up, activation, down = self.feed_forward
        return down(nn.functional.dropout(activation(up(x)), self.activation_dropout))


def blocks_of(core: nn.Module, option: str, attends: bool = False) -> list[Block]:
    """The layers of a core.  Raises ValueError, which names the option, where it has none, or none that `attends`."""
    blocks = [module for module in core.modules() if isinstance(module, Block)]
    if not blocks or (attends and not hasattr(blocks[0], "query_key_value")):
        raise ValueError(f"Expect `{option}` for a core with layers of attention, actual: {type(core).__name__}")
    return blocks


def regularise(core: nn.Module, *, attention_dropout: float = 0.0, activation_dropout: float = 0.0) -> None:
    """Let a core drop shares of the weights of attention, and of the ReLU's output, in training.

    Attention with dropout is computed over all pairs of a step and a memory.  Raises ValueError where the core has no
    layers of attention, which is looked at only for what is above 0.
    """
    for name, share in (("attention_dropout", attention_dropout), ("activation_dropout", activation_dropout)):
        for block in blocks_of(core, name, attends=name == "attention_dropout") if share else ():
            setattr(block, name, share)


def scale_by_depth(core: nn.Module) -> None:
    """Divide the weights of what each half of N layers adds to the stream by sqrt(2 N), so that its size stays.

    Raises ValueError where the core has no layers of attention.
    """
    blocks = blocks_of(core, "depth_scaled", attends=True)
    with torch.no_grad():
        for block in blocks:
            for added in (block.output, block.feed_forward[-1]):
                assert isinstance(added, nn.Linear)
                added.weight /= (2 * len(blocks)) ** 0.5

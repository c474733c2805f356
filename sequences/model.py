"""A network over tokens: an embedding, a memory core, and a linear head."""

from typing import Any

from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ..memory import CoreConfig, CoreOutput, MemoryCore, Record


class SequenceModel(nn.Module):
    """Predicts a class at every step of a stream of tokens (paper, section 5.2: characters, collisions).

    With `tied` the head's weights are the embedding's, which asks for as many classes as there are tokens.  Embeddings
    have a length of about sqrt(D), as the normed inputs of a layer have; dropout is that of the embedding.
    """

    def __init__(
        self, core: CoreConfig, vocabulary: int, classes: int, *, tied: bool = False, dropout: float = 0.0
    ) -> None:
        super().__init__()
        if tied and classes != vocabulary:
            said = f"False where the classes ({classes}) are not the tokens ({vocabulary})"
            raise ValueError(f"Expect `tied` to be {said}, actual: True")
        self.core_config = core
        self.core: MemoryCore[Any] = core.build()
        width = self.core.width
        self.embedding = nn.Embedding(vocabulary, width)
        self.head = nn.Linear(width, classes)
        self.dropout = nn.Dropout(dropout)
        self.scale = width**0.5
        nn.init.normal_(self.embedding.weight, std=1 / self.scale)
        nn.init.zeros_(self.head.bias)
        if tied:
            self.head.weight = self.embedding.weight

    def forward(
        self, tokens: Int[Tensor, "B T"], state: Any, resets: Bool[Tensor, "B T"], *, record: Record = Record.STATE
    ) -> tuple[Float[Tensor, "B T classes"], CoreOutput[Any]]:
        """Scores of the classes at each step, before the softmax, and what the core returned."""
        output = self.core(self.dropout(self.scale * self.embedding(tokens)), state, resets, record=record)
        return self.head(output.y), output


def negative_log_likelihood(
    scores: Float[Tensor, "B T classes"], targets: Int[Tensor, "B T"]
) -> tuple[Float[Tensor, ""], int, int]:
    """The sum over scored steps in nats, how many these are, and at how many the likeliest class was another.

    Targets below 0 aren't scored.
    """
    scored = targets >= 0
    chosen, wanted = scores[scored].float(), targets[scored]
    loss = nn.functional.cross_entropy(chosen, wanted, reduction="sum")
    return loss, len(wanted), int((chosen.detach().argmax(1) != wanted).sum())

"""Options of a transformer without encoder, on a backbone that is the encoder."""

from dataclasses import dataclass

from densevit.set_prediction.limits import check_counts
from densevit.set_prediction.transformer import Transformer


@dataclass(frozen=True)
class DecoderTransformer(Transformer):
    """The option `transformer`: the decoder. The backbone is the encoder, so `encoder_layers` is 0."""

    encoder_layers: int = 0
    dropout: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_counts({"encoder_layers": self.encoder_layers}, 0, 0)

import torch

from densevit.interfaces import Class
from densevit.model import DenseModel, build_backbone, create_head
from densevit.training.loop.unused_parameters import freeze_unused

CLASSES = (Class("ball", 1, (255, 0, 0)), Class("box", 2, (0, 255, 0)))


def test_only_norms_of_unused_features_are_frozen() -> None:
    backbone = build_backbone("swin", variant="nano", window_size=4, stem="conv")  # with running statistics
    small = {"width": 32, "num_heads": 2, "encoder_layers": 1, "decoder_layers": 1, "feedforward": 32}
    head = create_head("detr", backbone.channels, backbone.strides, CLASSES, transformer=small)
    model = DenseModel(backbone, {"detection": head})
    before = {name: value.clone() for name, value in model.state_dict().items()}
    random_state = torch.get_rng_state()

    unused = freeze_unused(model)
    # The paper's DETR takes the coarsest of four features.
    assert sorted(unused) == sorted(
        f"backbone.feature_norms.{i}.{kind}" for i in range(3) for kind in ("weight", "bias")
    )
    assert {name for name, p in model.named_parameters() if not p.requires_grad} == set(unused)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random_state)
    assert all(p.grad is None for p in model.parameters())

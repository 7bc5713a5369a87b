"""BEiT: cross entropy of masked tokens, the tokenizer, errors, and short trainings."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from densevit.errors import ConfigError, PluginError
from densevit.interfaces import LossContext
from densevit_methods.patch_masks import mask_patches, pixels_of_patches
from tests.methods.pretraining import SIZES, batch_of, built, normalised, train

TOKENIZER = '''
import torch
from torch import nn


class Brightness(nn.Module):
    """The mean brightness of a cell in `vocabulary` steps."""

    def __init__(self, stride: int, vocabulary: int = 8, crop: int = 0) -> None:
        super().__init__()
        self.stride, self.vocabulary, self.crop = stride, vocabulary, crop
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, images):
        height, width = images.shape[2:]
        images = nn.functional.pad(images, (0, -width % self.stride, 0, -height % self.stride))
        mean = nn.functional.avg_pool2d(self.weight * images.mean(1), self.stride)
        spread = ((mean - 0.5) * 40 + self.vocabulary / 2).clamp(0, self.vocabulary - 1)
        return spread.long()[:, self.crop :]


class Nothing(nn.Module):
    pass
'''


@pytest.fixture
def tokenizer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "brightness_tokens.py").write_text(TOKENIZER)
    monkeypatch.syspath_prepend(tmp_path / "site")
    return {"name": "brightness_tokens:Brightness"}


@pytest.mark.parametrize(("backbone", "stride"), [("vit", 16), ("swin", 16), ("swin", 32)])
def test_loss_is_the_cross_entropy_of_masked_tokens(backbone: str, stride: int, tokenizer: dict[str, Any]) -> None:
    """Patch by patch: -log softmax of the token of the unmasked image."""
    model, method = built("beit", backbone, tokenizer={**tokenizer, "stride": stride}, smallest_block=2)
    model.eval()
    batch = batch_of(*SIZES)
    masked, _ = mask_patches(batch, stride, method.masking)
    index = len(model.backbone.strides) - 1 - model.backbone.strides[::-1].index(stride)
    pixels = normalised(model, batch).float()
    tokens = torch.stack([cell_tokens(x, stride) for x in batch["images"]])
    assert len(tokens.unique()) > 2
    with torch.no_grad():
        covered = pixels_of_patches(masked, stride, batch["padding_mask"])
        side = model.backbone.strides[0]
        tiles = method.mask_token.token.repeat(1, 64 // side, 96 // side)
        feature = model.backbone(torch.where(covered[:, None], tiles, pixels))[index]
        each: list[list[float]] = [[], []]
        for i, row, column in masked.nonzero().tolist():
            logits = method.classifier.weight @ feature[i, :, row, column] + method.classifier.bias
            each[i].append(float(logits.logsumexp(0) - logits[tokens[i, row, column]]))
        found = method.validation_losses(model, batch)
        loss = method.training_step(model, batch, LossContext())["cross_entropy"]
    assert found.tolist() == pytest.approx([sum(x) / len(x) for x in each], rel=1e-4)
    assert float(loss) == pytest.approx(sum(map(sum, each)) / sum(map(len, each)), rel=1e-4)


def cell_tokens(image: Tensor, stride: int) -> Tensor:
    """The tokens of `Brightness`, cell by cell."""
    _, height, width = image.shape
    found = torch.zeros(height // stride, width // stride, dtype=torch.long)
    for row in range(height // stride):
        for column in range(width // stride):
            cell = image[:, row * stride : (row + 1) * stride, column * stride : (column + 1) * stride]
            found[row, column] = int(min(7, max(0, (float(cell.float().mean()) / 255 - 0.5) * 40 + 4)))
    return found


def test_tokenizer_is_frozen(tokenizer: dict[str, Any]) -> None:
    model, method = built("beit", tokenizer={**tokenizer, "stride": 16})
    assert isinstance(method.tokenizer, nn.Module) and not method.tokenizer.training
    assert not any(name.startswith("tokenizer") for name in method.state_dict())
    method.training_step(model, batch_of(*SIZES), LossContext())["cross_entropy"].backward()
    assert method.tokenizer.weight.grad is None and method.mask_token.token.grad.any()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"name": "dalle"}, ConfigError, r"method\.tokenizer\.name is 'dalle'; a class as module:Class"),
        ({"name": "no_such_tokens:Dalle"}, PluginError, r"cannot be imported: No module named 'no_such_tokens'"),
        ({"name": "brightness_tokens:Missing"}, PluginError, "cannot be imported"),
        ({"name": "brightness_tokens:Nothing"}, PluginError, "no vocabulary and no stride"),
        ({"stride": 14}, ConfigError, r"tokens of 14 pixels, but the features of Swin have strides \[4, 8, 16, 32\]"),
        ({"stride": 16, "crop": 1}, PluginError, r"tokens of shape \(2, 3, 6\).*\(2, 4, 6\) is expected"),
    ],
)
def test_wrong_tokenizers_are_errors(options: Any, error: type, message: str, tokenizer: dict[str, Any]) -> None:
    with pytest.raises(error, match=message):
        model, method = built("beit", tokenizer={**tokenizer, **options})
        method.training_step(model, batch_of(*SIZES), LossContext())


@pytest.mark.integration
@pytest.mark.parametrize("backbone", ["swin", "vit"])
def test_training(backbone: str, tokenizer: dict[str, Any], tmp_path: Path) -> None:
    run = train("beit", backbone, tmp_path, tokenizer={**tokenizer, "stride": 16})
    assert 0 < run.metrics["method/loss"] < 5
    assert all(name.startswith("backbone.") for name in load_file(run.path / "model.safetensors"))

"""EoMT against transformers' Eomt and EomtDinov3, with random weights in all tensors.

Their models are saved and loaded by `densevit.load`. Random points depend on their number only, so that both criteria
compare masks at the same points.
"""

import math

import pytest
import torch
from torch import nn

import densevit
from densevit.losses.context import LossContext

CLASSES, QUERIES, BLOCKS, POINTS = 5, 7, 3, 48
SIDE = 96
SMALL = {
    "hidden_size": 128, "num_hidden_layers": 6, "num_attention_heads": 4, "image_size": SIDE, "num_blocks": BLOCKS,
    "num_queries": QUERIES, "num_labels": CLASSES, "train_num_points": POINTS,
}  # fmt: skip


def randomised(model):
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1:
            nn.init.normal_(parameter, 0.0 if name.endswith("bias") else 0.6, 0.3)
        elif name.startswith("query") or "token" in name or "position" in name:
            nn.init.normal_(parameter)
        else:
            nn.init.normal_(parameter, 0.0, 1.2 / math.sqrt(parameter[0].numel()))
    return model


def theirs(version, **options):
    import transformers

    if not hasattr(transformers, "EomtDinov3Config"):
        pytest.skip("transformers lacks EoMT")
    torch.manual_seed(0)
    if version == 2:
        config = transformers.EomtConfig(**SMALL, **options)
        return randomised(transformers.EomtForUniversalSegmentation(config)).eval()
    config = transformers.EomtDinov3Config(**SMALL, intermediate_size=512, pos_embed_rescale=None, **options)
    return randomised(transformers.EomtDinov3ForUniversalSegmentation(config)).eval()


def ours(model, folder):
    """The same model in densevit."""
    model.save_pretrained(folder)
    return densevit.load(str(folder))


@pytest.fixture(scope="module", params=[2, 3])
def models(request, tmp_path_factory):
    model = theirs(request.param)
    return request.param, model, ours(model, tmp_path_factory.mktemp("eomt"))


def batch_of(size=(SIDE, SIDE), count=2):
    images = torch.randint(0, 256, (count, 3, *size), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    targets = [{"size": size, "original_size": size, "image_id": i} for i in range(count)]
    return {"images": images, "padding_mask": torch.zeros(count, *size, dtype=torch.bool), "targets": targets}


def close(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


def test_training_with_masked_attention(models, monkeypatch):
    """The predictions of all layers, the loss and its gradients."""
    version, model, dense = models
    real = torch.rand

    def points(*shape, device=None, generator=None, **options):
        shape = shape[0] if isinstance(shape[0], tuple) else shape
        return real(shape[1:], generator=torch.Generator().manual_seed(shape[1])).expand(shape).contiguous().to(device)

    model.attn_mask_probs.fill_(1)
    model.train(), dense.train()
    [head] = dense.heads.values()
    head.set_progress(0.0)
    head.criterion.num_points = POINTS
    batch = batch_of()
    generator = torch.Generator().manual_seed(2)
    masks = [torch.rand(n, 1, 1, generator=generator) < torch.rand(n, SIDE, SIDE, generator=generator) for n in (3, 2)]
    labels = [torch.tensor([0, 3, 1]), torch.tensor([4, 4])]
    if head.task == "panoptic":
        for each in masks:
            each[0] = True  # no void, which is background in transformers
        maps = [panoptic(*pair) for pair in zip(masks, labels, strict=True)]
        batch["targets"] = [target | {"panoptic": x} for target, x in zip(batch["targets"], maps, strict=True)]
        masks = [torch.stack([t["panoptic"] == i for i in ids(t)]) for t in batch["targets"]]
        labels = [torch.tensor([i // 1000 for i in ids(t)]) for t in batch["targets"]]
    monkeypatch.setattr(torch, "rand", points)
    layers = []
    predict = model.predict
    monkeypatch.setattr(model, "predict", lambda x: layers.append(predict(x)) or layers[-1])
    pixels = dense.normalise(batch["images"], batch["padding_mask"])
    expected = model(pixels, mask_labels=[m.float() for m in masks], class_labels=labels)
    outputs = dense(batch)
    [own] = outputs.values()
    logits, embeddings = own["layers"]
    assert len(layers) == len(logits) == BLOCKS + 1
    for i, (mask_logits, class_logits) in enumerate(layers):
        close(logits[i], class_logits)
        close(torch.einsum("bqc,bchw->bqhw", embeddings[i], own["pixels"][i]), mask_logits)
    total = sum(dense.losses_of(outputs, batch["targets"], LossContext()).values())
    close(total, expected.loss)
    total.backward(), expected.loss.backward()
    close(head.queries.weight.grad, model.query.weight.grad)
    close(dense.backbone.blocks[1].mlp.expand.weight.grad, (model.layers[1].mlp.fc1 if version == 2 else
                                                           model.layers[1].mlp.up_proj).weight.grad)  # fmt: skip
    close(dense.backbone.stem.projection.weight.grad,
          (model.embeddings.patch_embeddings.projection if version == 2 else model.embeddings.patch_embeddings)
          .weight.grad)  # fmt: skip


def panoptic(masks, labels):
    """A panoptic map, in which later masks hide earlier ones."""
    result = torch.full(masks.shape[1:], -1, dtype=torch.int32)
    for i, (mask, label) in enumerate(zip(masks, labels.tolist(), strict=True)):
        result[mask] = label * 1000 + i
    return result


def ids(target):
    return [i for i in target["panoptic"].unique().tolist() if i >= 0]

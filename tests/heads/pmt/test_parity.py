"""PMT against the authors' code, through the layout of their decoders, and on one frozen backbone with other heads."""

from collections import Counter

import pytest
import torch

import densevit
from densevit.interfaces import Class, LastBlocks
from densevit.layouts import find
from densevit_batch.model_joining import join, read_part
from densevit_checkpoints.key_mapping import translate
from densevit_checkpoints.recognition import recognise
from densevit_heads.parts.mask_annealing import mask_probabilities
from densevit_heads.parts.mask_checkpoints import KEYS
from densevit_heads.pmt.head import PlainMaskDecoder
from tests.checkpoints.layouts.translations import written_back
from tests.heads.pmt import authors_decoder as authors

MASKS = [
    1.852, 7.712, -2.686, -6.362, -7.696, -22.153, -4.603, 6.259, -5.667,
    -12.089, -9.343, -17.066, -0.568, -11.71, -10.698, -3.492, -18.593, -31.556,
]  # fmt: skip
LOGITS = [
    [-3.4761, -0.8377, -0.7039, 0.929, 0.8641, -2.4761, 1.4297, 0.3824, 0.0013, 0.2938, -3.2753, -1.6418],
    [-0.9714, 1.6352, -1.1926, 0.203, 1.3693, 1.282, 0.351, 0.9267, 1.258, 2.2577, -1.8104, 0.2866],
    [-3.0234, 1.9297, 0.4144, 2.8934, 1.2023, 0.4668, -1.4227, 0.3572, -1.3, 1.0725, 1.5156, 3.6406],
]


@pytest.mark.parity("pmt", "pmt-instance", "pmt-semantic")
@pytest.mark.parametrize("task", KEYS)
def test_outputs_are_those_of_the_authors_decoder(task):
    """MASKS and LOGITS are of tue-mps/pmt at 54d73c9: `PMT.normalize_features` and `PMT.decoder`, with the tensors
    `state()`, on `tokens()` and the rotary table of a map of 2 x 3 cells; the second image's masks without masked
    attention at [::5, ::4], and in training its class logits of all layers, with each query masked."""
    name = "pmt" if task == "panoptic" else f"pmt-{task}"
    state, layout = authors.state(), find(name)
    assert recognise(state).name == "pmt"
    done = translate(state, layout)
    assert (done.unknown, done.errors, [*done.ignored_keys]) == ([], [], ["network.decoder.attn_mask_probs"])
    written_back(state, done, layout)
    classes = [Class(str(i), i, (i, i, i)) for i in range(authors.K)]
    levels = (authors.C,) * authors.LEVELS, (16,) * authors.LEVELS
    head = densevit.create_head(
        name.replace("-", "_"), *levels, classes, num_queries=authors.Q, num_blocks=authors.BLOCKS
    )
    tensors = {key.removeprefix(f"heads.{KEYS[task]}."): x for key, x in done.tensors.items()}
    missing, unexpected = head.load_state_dict(tensors, strict=False)
    assert unexpected == [] and all(key.endswith("num_batches_tracked") for key in missing)
    tokens = LastBlocks(torch.empty(0), authors.GRID, (), torch.nn.Identity(), authors.tokens())
    mask = torch.zeros(2, 32, 48, dtype=torch.bool)
    masks = head.eval()(tokens, mask)["masks"][1, :, ::5, ::4].flatten()
    torch.testing.assert_close(masks, torch.tensor(MASKS), rtol=0, atol=2e-3)
    logits = head.train()(tokens, mask)["layers"][0][:, 1].flatten(1)
    torch.testing.assert_close(logits, torch.tensor(LOGITS), rtol=0, atol=2e-4)


def test_the_written_out_decoder_computes_what_the_authors_code_did():
    """`authors.outputs`, with which whole models are compared."""
    height, width = authors.GRID
    rows = (2 * torch.arange(height) + 1) / height - 1
    columns = (2 * torch.arange(width) + 1) / width - 1
    periods = 100 ** (torch.arange(16) / 16)
    angles = [2 * torch.pi * torch.cat([y / periods, x / periods]).repeat(2) for y in rows for x in columns]
    rotation = (torch.stack(angles).cos(), torch.stack(angles).sin())
    masks, _ = authors.outputs(authors.state(), authors.tokens(), rotation, authors.GRID)
    torch.testing.assert_close(masks[1, :, ::5, ::4].flatten(), torch.tensor(MASKS), rtol=0, atol=2e-3)


def test_annealing_follows_the_authors_configs():
    """COCO, 12 epochs of 7393 steps: attn_mask_annealing_{start,end}_steps."""
    total, starts = 12 * 7393, (0, 23651, 32520, 41389, 50258, 59128)
    ends = (3000, 38433, 47302, 56171, 65040, 73910)
    for step in (0, 1000, 3000, 14000, 30000, 36000, 50000, 60000, 73000, 80000):
        expected = [(1 - min(1, max(0, (step - a) / (b - a)))) ** 0.9 for a, b in zip(starts, ends, strict=True)]
        found = mask_probabilities(step / total, 6, PlainMaskDecoder.first_duration)
        assert found == pytest.approx(expected, abs=7e-3)


@pytest.mark.integration
def test_heads_joined_on_one_backbone_run_it_once(tmp_path):
    """Each predicts as alone; in the exported graph each large weight of the backbone is used once."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    small = {"num_queries": 6, "num_blocks": 2, "num_points": 64}
    sections = {
        "panoptic": {"name": "pmt", **small}, "surfaces": {"name": "linear"},
        "classes": {"name": "setr", "decoder": "naive", "width": 16}, "depth": {"name": "dpt", "width": 16},
    }  # fmt: skip
    vit = {"name": "vit", "variant": "nano", "image_size": 64, "registers": 2, "features": [1, 2], "freeze": True}
    models = {}
    for name, section in sections.items():
        torch.manual_seed(0)  # of the backbone, which is built first
        classes = None if name == "depth" else ["a", "b"]
        models[name] = densevit.create_model(vit, {name: section}, classes).eval()
        densevit.save(models[name], tmp_path / f"{name}.safetensors")
    joined = join([read_part(tmp_path / f"{name}.safetensors") for name in sections])
    images = torch.randint(0, 256, (2, 3, 48, 80), dtype=torch.uint8)
    outputs = joined(images)
    for name, model in models.items():
        alone = {key: x for key, x in model(images)[name].items() if isinstance(x, torch.Tensor)}
        assert alone
        for key, x in alone.items():
            torch.testing.assert_close(outputs[name][key], x, rtol=1e-5, atol=1e-5)
    densevit.export(joined, tmp_path / "joined.onnx")
    nodes = onnx.load(tmp_path / "joined.onnx").graph.node
    uses = Counter(name.partition(".backbone.")[2] for node in nodes for name in node.input)
    weights = [f"blocks.{i}.mlp.{layer}.weight" for i in (0, 1) for layer in ("expand", "contract")]
    assert [uses[key] for key in ("stem.projection.weight", *weights)] == [1] * 5

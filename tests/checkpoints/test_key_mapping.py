"""Layouts with made-up tables: each element of a line, in both directions."""

import pytest
import torch

from densevit.interfaces import Change, CheckpointLayout, Line, SpecialTensors
from densevit_checkpoints.key_mapping import translate, translate_back
from tests.weights.states import equal


def layout_of(*lines, signature_keys=(), **special):
    table = tuple(Line(*line) for line in lines)
    return CheckpointLayout("a-b", tuple(signature_keys), table, lambda state: {}, special=SpecialTensors(**special))


def numbered(*names, shape=(6, 2)):
    """Tensors with distinct values."""
    size = torch.Size(shape).numel()
    return {name: torch.arange(size).view(shape) + 1000 * i for i, name in enumerate(names)}


TRANSPOSED = Change(lambda x: x.T, lambda x: x.T)
FUSED = layout_of(
    ("layers.{i}.q.*", "blocks.{i}.qkv.*[0/3]"),
    ("layers.{i}.k.*", "blocks.{i}.qkv.*[1/3]"),
    ("layers.{i}.v.*", "blocks.{i}.qkv.*[2/3]"),
)


def test_indices_and_suffixes_are_kept_and_tensors_converted():
    layout = layout_of(("a.{s}.b{i}.norm.*", "x{i}.{s}.*"), ("w", "our.w", TRANSPOSED))
    state = numbered("a.3.b12.norm.weight", "a.0.b1.norm.deep.bias", "w")
    done = translate(state, layout)
    assert list(done.tensors) == ["x12.3.weight", "x1.0.deep.bias", "our.w"]
    assert torch.equal(done.tensors["our.w"], state["w"].T)
    assert done.origins == {"x12.3.weight": [*state][:1], "x1.0.deep.bias": [*state][1:2], "our.w": ["w"]}
    assert (done.ignored_keys, done.unknown, done.errors) == ({}, [], [])
    back, unknown = translate_back(done.tensors, layout)
    assert equal(back, state) and unknown == []


def test_names_are_literal_except_for_integer_placeholders():
    layout = layout_of(("a.b{i}.w", "c.{i}"), ("l.{i}.l.{i}.w", "d.{i}"))
    done = translate(numbered("axb1.w", "a.b.w", "a.b1.w2", "a.bx.w", "l.1.l.2.w", "l.7.l.7.w"), layout)
    assert done.unknown == ["axb1.w", "a.b.w", "a.b1.w2", "a.bx.w", "l.1.l.2.w"]
    assert list(done.tensors) == ["d.7"]
    done = translate(numbered("a.1.w"), layout_of(("a.1.w", "first"), ("a.{i}.w", "second"), ("*", "third.*")))
    assert list(done.tensors) == ["first"]  # of several lines that match


def test_missing_and_ineffective_parts_are_zero():
    lacking = layout_of(("{i}.q", "{i}.qkv[0/3]"), ("0", "{i}.qkv[1/3]"), ("{i}.v", "{i}.qkv[2/3]"))
    state = {"4.q": torch.ones(2), "4.v": 2 * torch.ones(2)}
    done = translate(state, lacking)
    assert done.tensors["4.qkv"].tolist() == [1, 1, 0, 0, 2, 2]
    assert equal(translate_back(done.tensors, lacking)[0], state)

    ineffective = layout_of(("{i}.qkv[0/3]", "{i}.q"), ("{i}.qkv[1/3]", "0"), ("{i}.qkv[2/3]", "{i}.v"))
    done = translate({"4.qkv": torch.tensor([1.0, 1, 9, 9, 2, 2])}, ineffective)
    assert equal(done.tensors, state) and done.ignored_keys == {"4.qkv[1/3]": "without effect"}
    assert translate_back(state, ineffective)[0]["4.qkv"].tolist() == [1, 1, 0, 0, 2, 2]


def test_equal_copies_are_dropped_and_restored():
    layout = layout_of(("a.*", "ours.*"), copies={"b.{i}.*": "a.*"})
    state = {"a.w": torch.ones(2), "b.0.w": torch.ones(2), "b.1.w": torch.ones(2)}
    done = translate(state, layout)
    assert list(done.tensors) == ["ours.w"]
    assert done.ignored_keys == {"b.0.w": "a copy of a.w", "b.1.w": "a copy of a.w"}
    assert done.errors == []
    for other in (torch.tensor([1.0, 2.0]), torch.ones(3)):
        assert translate({**state, "b.1.w": other}, layout).errors == ["b.1.w should be equal to a.w and is not"]


def test_incompatible_parts_are_reported_without_raising():
    for given, wrong in ((("q", "v"), "2 of 3"), (("q",), "2 and 3 of 3")):
        done = translate(numbered(*(f"layers.0.{name}.w" for name in given)), FUSED)
        assert (done.errors, done.tensors) == ([f"blocks.0.qkv.w lacks part {wrong}"], {})
    twice = translate(numbered("a", "b"), layout_of(("a", "x"), ("b", "x")))
    assert twice.errors == ["x has too many source tensors: a, b"]
    lines = layout_of(*((f"w[{i}/3]", f"{name}") for i, name in enumerate("qkv")))
    assert "does not have the 3 parts" in translate({"w": torch.ones(4)}, lines).errors[0]
    with pytest.raises(ValueError, match=r"These tensors do not fit a-b: x lacks part 2 of 2"):
        translate_back({"q": torch.ones(1)}, layout_of(("x[0/2]", "q"), ("x[1/2]", "k")))

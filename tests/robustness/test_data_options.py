"""Invalid options of the data section and of the data sets `coco`, `scenes` and `mix`."""

import pytest

from tests.robustness.conftest import TINY
from tests.robustness.test_coco import document, write

MIX = (
    TINY.partition("data:")[0]
    + """\
data: {name: mix, image_size: 64, batch_size: 1, num_workers: 0, sets: {
  a: {name: scenes, train_length: 2, val_length: 2}, b: {name: scenes, seed: 5, train_length: 3, val_length: 2}}}
trainer: {max_steps: 1}
"""
)
OF_SCENES: dict[str, tuple[list[str], tuple[str, ...]]] = {
    "length of 0": (["data.train_length=0"], ("data.train_length is 0",)),
    "seed below zero": (["data.seed=-1"], ("data.seed is -1",)),
    "size of 8": (["data.image_size=8"], ("data.image_size is 8", "32")),
    "an unknown split": (["data.split=holdout"], ("'holdout'", "train, val, test")),
    "crops without a size": (
        ["data.transforms=crop", "data.image_size=null"],
        ("data.image_size is missing", "'crop'"),
    ),
    "scales without crops": (["data.scales=[0.5,2]"], ("data.scales", "not an option of 'scenes'")),
}
OF_COCO: dict[str, tuple[list[str], tuple[str, ...]]] = {
    "no root": (["data.root=null"], ("data.root is missing",)),
    "limit of 0": (["data.limit=0"], ("data.limit is 0",)),
    "a root without annotations": (["data.root=train"], ("train has no annotations", "Looked for")),
    "annotations elsewhere": (["data.annotations=a.json"], ("There is no annotation file a.json",)),
    "annotations over-long": ([f"data.annotations={'a' * 5000}"], ("'coco'", "File name too long")),
    "an unknown split": (["data.split=test"], ("'test'", "Looked for")),
}
OF_MIX: dict[str, tuple[list[str], tuple[str, ...]]] = {
    "an unknown option": (["data.sets.a.lenth=5"], ("data.sets.a.lenth", "not an option")),
    "a share of 0": (["data.sets.a.share=0", "data.sets.b.share=1"], ("data.sets.a.share is 0",)),
    "a share alone": (["data.sets.a.share=1"], ("data.sets.b.share is missing",)),
    "a share of 10^12": (["data.sets.a.share=1e12", "data.sets.b.share=1"], ("data.sets: the shares 1e+12, 1",)),
    "provides of what is not there": (["data.sets.a.provides=[keypoints]"], ("data.sets.a.provides",)),
    "provides of nothing": (["data.sets.a.provides=[]", "data.sets.b.provides=[]"], ("data.sets: no set has labels",)),
    "a set of itself": (["data.sets.a.name=mix"], ("data.sets.a",)),
}  # fmt: skip


TABLES = {"scenes": OF_SCENES, "coco": OF_COCO, "mix": OF_MIX}


@pytest.mark.parametrize(("kind", "case"), [(kind, case) for kind, cases in TABLES.items() for case in cases])
def test_invalid_option_is_refused(kind, case, refused, tmp_path):
    options, says = TABLES[kind][case]
    if kind == "coco":
        write(tmp_path, document())
        options = options if any(option.startswith("data.root") for option in options) else ["data.root=.", *options]
    else:
        (tmp_path / "tiny.yaml").write_text(TINY if kind == "scenes" else MIX)
    refused("train", "tiny.yaml", *options, says=says)

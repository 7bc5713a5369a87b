"""Invalid options of the data section and of the data sets `coco`, `scenes` and `mix`."""

import pytest

from tests.robustness.conftest import TINY
from tests.robustness.test_coco import document, write

MIX = TINY.replace(
    "{name: scenes, image_size: 64, batch_size: 2, train_length: 4, val_length: 2, num_workers: 0}",
    "{name: mix, image_size: 64, batch_size: 1, num_workers: 0, sets: {a: {name: scenes, train_length: 2, "
    "val_length: 2}, b: {name: scenes, seed: 5, train_length: 3, val_length: 2}}}",
)
OF_SCENES: dict[str, tuple[list[str], tuple[str, ...]]] = {
    "length below zero": (["data.val_length=-1"], ("data.val_length is -1",)),
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
    "limit of 0": (["data.limit=0"], ("data.limit is 0",)),
    "no root": (["data.root=null"], ("data.root is missing",)),
    "a root without annotations": (["data.root=train"], ("train has no annotations", "Looked for")),
    "annotations elsewhere": (["data.annotations=a.json"], ("There is no annotation file a.json",)),
    "annotations of an image": (["data.annotations=train/0.png"], ("train/0.png is not valid json",)),
    "annotations over-long": ([f"data.annotations={'a' * 5000}"], ("'coco'", "File name too long")),
    "images elsewhere": (["data.images=nowhere"], ("nowhere",)),
    "an unknown split": (["data.split=test"], ("'test'", "Looked for")),
    "labelme's format": (["data={name: labelme, root: .}"], ("labelme's format", "densevit data convert labelme")),
}
OF_MIX: dict[str, tuple[list[str], tuple[str, ...]]] = {
    "an unknown plugin": (["data.sets.a.name=scene"], ("'scene'", "Did you mean 'scenes'")),
    "an unknown option": (["data.sets.a.lenth=5"], ("data.sets.a.lenth", "not an option")),
    "a share of 10^12": (["data.sets.a.share=1e12", "data.sets.b.share=1"], ("data.sets: the shares 1e+12, 1",)),
    "provides of nothing": (["data.sets.a.provides=[]", "data.sets.b.provides=[]"], ("data.sets: no set has labels",)),
    "a set of itself": (["data.sets.a.name=mix"], ("data.sets.a",)),
}  # fmt: skip


CASES = [
    pytest.param(config, *case, id=f"{name}, {title}")
    for name, config, cases in (("scenes", TINY, OF_SCENES), ("mix", MIX, OF_MIX), ("coco", "", OF_COCO))
    for title, case in cases.items()
]


@pytest.mark.parametrize(("config", "options", "says"), CASES)
def test_invalid_option_is_refused(config, options, says, refused, tmp_path):
    if config:
        (tmp_path / "tiny.yaml").write_text(config)
    else:
        write(tmp_path, document())
        options = ["data.root=.", *options]
    refused("train", "tiny.yaml", *options, says=says)

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
    "size of 8": (["data.image_size=8"], ("data.image_size is 8", "32")),
    "an unknown split": (["data.val_split=holdout"], ("'holdout'", "train, val, test")),
    "scales without crops": (["data.scales=[0.5,2]"], ("data.scales", "not an option of 'scenes'")),
}
OF_COCO: dict[str, tuple[list[str], tuple[str, ...]]] = {
    "no root": (["data.root=null"], ("data.root is missing",)),
    "a root without annotations": (["data.root=train"], ("train has no annotations", "Looked for")),
    "annotations elsewhere": (["data.annotations=a.json"], ("There is no annotation file a.json",)),
    "images elsewhere": (["data.images=nowhere"], ("nowhere",)),
    "an unknown split": (["data.val_split=test"], ("'test'", "Looked for")),
    "labelme's format": (["data={name: labelme, root: .}"], ("labelme's format", "densevit data convert labelme")),
}
OF_MIX: dict[str, tuple[list[str], tuple[str, ...]]] = {
    "an unknown plugin": (["data.sets.a.name=scene"], ("'scene'", "Did you mean 'scenes'")),
    "an unknown option": (["data.sets.a.lenth=5"], ("data.sets.a.lenth", "not an option")),
    "provides of nothing": (["data.sets.a.provides=[]", "data.sets.b.provides=[]"], ("data.sets: no set has labels",)),
}  # fmt: skip


@pytest.mark.parametrize(
    ("config", "options", "says"),
    [
        pytest.param(config, *case, id=f"{name}, {title}")
        for name, config, cases in (("scenes", TINY, OF_SCENES), ("mix", MIX, OF_MIX), ("coco", "", OF_COCO))
        for title, case in cases.items()
    ],
)
def test_invalid_option_is_refused(config, options, says, refused, tmp_path):
    if config:
        (tmp_path / "tiny.yaml").write_text(config)
    else:
        write(tmp_path, document())
        options = ["data.root=.", *options]
    refused("train", "tiny.yaml", *options, says=says)

"""`densevit.list_models` and `densevit models`: every published model of the layouts, and what is said of each."""

import json
import re
import subprocess
import sys
from functools import cache
from pathlib import Path, PurePath

import pytest

import densevit
from densevit import config as configs
from densevit.cli import main
from densevit.errors import WeightsError
from densevit.layouts import coco_classes, coco_panoptic_classes, every, find, numbered_classes, segmentation_classes
from tools.conventions.model_zoo import TABLE
from tools.conventions.recipes import VARIANT
from tools.conventions.tree import Tree

ROOT = Path(__file__).parents[2]
PAGES = [*ROOT.glob("README.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("docs/reference/*.md")]
NAME = re.compile(r"\b(?:hf|torchvision|package):(?!NAME|ORG|My|triangle|a/b|acme|my|me|you)[\w./-]+\w")
MODELS = densevit.list_models()
TASKS = ["depth", "detection", "panoptic", "segmentation", "backbone"]

GTR = (
    "cityscapes/segformer_b0 backbone.name=gtr backbone.variant={} heads.segmentation.name=gtr_semantic "
    "heads.segmentation.neck.name=projector heads.segmentation.neck.width={} heads.segmentation.width={} "
    "heads.segmentation.neck.pyramid_strides=[8,16,32] heads.segmentation.neck.downsampling_activation=silu"
)
LARGE = "reassemble_channels=[256,512,1024,1024]"
WITHOUT_RECIPE = {  # models of the same parameters
    "hf:Intel/dpt-large": "nyu/dpt_hybrid backbone.variant=large backbone.stem=patch "
    f"backbone.weight_standardization=variance heads.depth.{LARGE}",
    "hf:Intel/dpt-hybrid-midas": "nyu/dpt_hybrid",
    "hf:Intel/dpt-large-ade": "ade20k/setr_naive_vit_large backbone.readout=project "
    f"heads.segmentation.name=dpt_segmentation heads.segmentation.{LARGE}",
    **{
        f"hf:Phoenix8125/GTR/semseg/gtrsemseg_{size}_cityscapes.pth": GTR.format(size, width, width)
        for size, width in {"s": 192, "m": 256, "l": 256, "x": 256}.items()
    },
}


def test_names_on_pages_and_in_configs_are_listed():
    listed = {model.name for model in MODELS}
    for page in [*PAGES, *ROOT.glob("configs/**/*.yaml")]:
        for name in NAME.findall(TABLE.sub("", page.read_text())):
            assert name in listed or any(other.startswith(f"{name}/") for other in listed), f"{page.name}: {name}"


def test_a_layout_has_every_listed_model_once_and_no_other_layout_gives_it_other_facts():
    facts = {}
    for layout in every():
        for name, model in layout.publishing.models.items():
            assert facts.setdefault(name, model) == model, name
    assert sorted(facts) == sorted(model.name for model in MODELS) and len(facts) > 200
    assert all(model.name in find(model.layout).publishing.models for model in MODELS)


def recipe_of(model):
    """The overrides of a model's recipe, the remarks of its config about variants, and all its comments."""
    name, _, overrides = model.recipe.partition(" ")
    tree, file = Tree(ROOT), f"configs/{name}.yaml"
    variants = [match for line in tree.text(file).splitlines() if (match := VARIANT.fullmatch(line))]
    remarks = {match[1]: match[2] for match in variants}
    return overrides, remarks, " ".join(line for line in tree.text(file).splitlines() if line.startswith("#"))


@pytest.mark.parametrize("task", TASKS[:-1])
def test_scores_and_recipes_are_those_of_the_recipes_first_lines(task):
    """If these name the model. A recipe of a paper with overrides is a variant that they list."""
    checked = 0
    for model in (model for model in MODELS if model.task == task and model.recipe):
        overrides, remarks, text = recipe_of(model)
        if model.recipe.partition("/")[0] in ("ade20k", "cityscapes", "coco", "kitti", "nyu"):
            assert not overrides or overrides in remarks, model.name
        if model.name in text and (not overrides or overrides in remarks):
            numbers = {float(number) for number in re.findall(r"\b0\.\d+", remarks.get(overrides, text))}
            released = {float(number) for number in re.findall(rf"{model.name}, has (0\.\d+)", text)}
            assert {*model.scores.values()} <= numbers | released, model.name
            checked += bool(model.scores)
    assert checked >= {"depth": 1, "detection": 15, "panoptic": 5, "segmentation": 8}[task]


@cache
def parameters(recipe, objects365, cities):
    """The number of parameters of the model that a recipe builds, on the meta device, with the classes of its data."""
    import torch

    from tests.configs.published import count, full_model

    first, *overrides = recipe.split()
    if "=" in first:
        values = dict(word.removeprefix("backbone.").split("=", 1) for word in (first, *overrides))
        options = configs.yaml_io.parse(f"{{{', '.join(f'{key}: {value}' for key, value in values.items())}}}", recipe)
        if options["name"] == "cvt":
            options["variant"] = str(options["variant"])
        with torch.device("meta"):
            return count(densevit.create_backbone(**options))
    classes = {
        "detection": numbered_classes(366, ()) if objects365 else coco_classes(),
        "panoptic": coco_panoptic_classes(),
        "segmentation": segmentation_classes(19 if cities else 150),
    }
    return count(full_model(configs.load(first, overrides), classes))


@pytest.mark.integration
@pytest.mark.parametrize("layout", sorted({model.layout for model in MODELS}))
def test_parameters_are_those_of_the_model_that_the_recipe_builds(layout):
    for model in (model for model in MODELS if model.layout == layout):
        recipe = model.recipe or WITHOUT_RECIPE[model.name]
        found = parameters(recipe, "obj365" in model.name, "cityscapes" in model.name)
        assert found == pytest.approx(model.parameters, rel=0.01), f"{model.name}: {found:,}"


def test_task_and_pretrained_choose_rows():
    assert list(dict.fromkeys(model.task for model in MODELS)) == TASKS
    loads, files = densevit.list_models(pretrained=True), densevit.list_models(pretrained=False)
    assert {model.name.partition(":")[0] for model in loads} == {"hf", "torchvision", "package"}
    assert {PurePath(model.name).suffix for model in files} == {".pth", ".pt", ""} and len(files) > 8
    assert sorted(map(repr, [*loads, *files])) == sorted(map(repr, MODELS))
    assert densevit.list_models("depth") == [model for model in MODELS if model.task == "depth"]
    known = "Did you mean 'depth'? Known: backbone, depth, detection, panoptic, segmentation."
    with pytest.raises(WeightsError, match=rf"No published model has the task 'deth'\. {re.escape(known)}"):
        densevit.list_models("deth")


def test_without_timm_its_backbones_are_left_out_with_a_warning(uninstalled):
    uninstalled("timm")
    with pytest.warns(match=r"timm is not installed: its backbones are left out\. Fix: "):
        assert densevit.list_models("backbone") == [model for model in MODELS if model.task == "backbone"]


def test_words_of_the_command_filter_names_tasks_data_sets_and_licences(capsys):
    assert main(["models", "COCO", "apache-2.0", "R18VD", "--json"]) == 0
    models = json.loads(capsys.readouterr().out)["models"]
    assert [model["name"] for model in models] == ["hf:PekingU/rtdetr_r18vd", "hf:PekingU/rtdetr_v2_r18vd"]
    assert main(["models", "--task", "depth", "kitti/"]) == 0
    assert re.findall(r"^\S+(?=.* M )", capsys.readouterr().out, re.MULTILINE) == [
        "dpt_hybrid_kitti-cb926ef4.pt",
        "hf:depth-anything/Depth-Anything-V2-Metric-Outdoor-Small-hf",
    ]
    assert main(["models", "no", "such"]) == 0
    assert capsys.readouterr().out.startswith("No published model has the words no such.\n")
    assert main(["models", "--task", "deth"]) == 2


@pytest.mark.integration
def test_the_list_imports_no_library_of_models():
    heavy = {"timm", "torchvision", "transformers", "pandas", "pytorch_lightning", "huggingface_hub", "matplotlib"}
    code = f"import sys, densevit; densevit.list_models(); print(sorted({heavy} & {{*sys.modules}}))"
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout == "[]\n"

"""`densevit predict --format parquet`: the same predictions as in the json files, also after a kill."""

import json
from pathlib import Path
from typing import Any

import pandas

from densevit_batch.prediction_tables import IMAGES, OBJECTS, listed_images, object_files, read_entries
from tests.cli.stand_in import read

COMMAND = ["predict", "run", "a", "b", "--batch-size", "1"]
BOX = ["x", "y", "width", "height"]


def as_text(rows: list[dict[str, Any]], key: str) -> list[dict[str, Any]]:
    return sorted((row | {key: str(row[key])} for row in rows), key=lambda row: json.dumps(row, sort_keys=True))


def check_same(tables: str, jsons: str) -> None:
    """Both folders have the same images and objects; ids are text in the tables."""
    images = listed_images(Path(tables))
    assert as_text(images, "id") == as_text(read(f"{jsons}/images.json"), "id")
    [file] = object_files(Path(tables), "detection")
    objects = read_entries(file, images)
    assert as_text(objects, "image_id") == as_text(read(f"{jsons}/predictions.json"), "image_id")


def test_tables_have_the_images_and_objects_of_the_json_files(model, photos, run) -> None:
    Path("b/2.png").write_bytes(b"no image")
    run(*COMMAND, "--out", "jsons", code=1)
    said = run(*COMMAND, "--out", "tables", "--format", "parquet", code=1)
    assert "tables: 4 of 5 images; 1 could not be read" in said
    check_same("tables", "jsons")
    assert {path.name for path in Path("tables").glob("*.json")} == {"predict.json"}
    assert Path("tables/predictions.csv").read_text() == Path("jsons/predictions.csv").read_text()
    states = pandas.read_parquet(Path("tables", IMAGES)).set_index("id").state
    assert states.pop("2") == "failed" and {*states} == {"predicted"}
    objects = pandas.read_parquet(Path("tables", OBJECTS))
    assert [*objects.columns] == ["image_id", *BOX, "score", "category_id", "class"]
    dog = objects[(objects.image_id == "139") & (objects["class"] == "dog")].iloc[0]
    assert (dog.score, dog.category_id, *dog[BOX]) == (0.75, 18, 1, 2, 51, 38)
    Path("a/1.jpg").rename("b/2.jpg")
    run("predict", "run", "b/2.jpg", "b/000139.jpg", "--out", "numbers", "--format", "parquet")
    assert [image["id"] for image in listed_images(Path("numbers"))] == [2, 139]

"""The model card of a repository on the Hugging Face Hub, README.md: front matter, then what users need to know."""

import re
from collections.abc import Mapping

import densevit
from densevit.errors import counted, listed
from densevit.evaluation.metrics_file import by_head, number, overall
from densevit.interfaces import Licences
from densevit.model import DenseModel
from densevit.weights.licences import line

_PIPELINE_TAGS = {  # the Hub's words for tasks
    "detection": "object-detection",
    "segmentation": "image-segmentation",
    "panoptic": "image-segmentation",
    "depth": "depth-estimation",
    "classification": "image-classification",
}
_HUB_LICENCES = re.compile(  # those of weights; https://huggingface.co/docs/hub/repositories-licenses lists all
    r"apache-2\.0|mit|isc|zlib|unlicense|bsd-[23]-clause|cc0-1\.0|cc-by(-nc)?(-sa|-nd)?-4\.0|cc-by(-nc)?-[23]\.0|"
    r"a?gpl-3\.0|apple-amlr|fair-noncommercial-research-license|unknown"
)
_CARD = """\
---
library_name: densevit
{% if task %}
pipeline_tag: {{ task }}
{% endif %}
{% if licence %}
license: {{ licence if is_hub_licence(licence) else "other" }}
{% if not is_hub_licence(licence) %}
license_name: {{ licence }}
{% endif %}
{% endif %}
tags: {{ (["densevit"] + names) | tojson }}
---

# {{ repository }}

A model of densevit {{ version }} with {{ parameters }} parameters.

- Images: {{ model.channels }}.
- Backbone: `{{ model.sections.backbone.name }}`.
{% for name, head in model.heads.items() %}
- Head `{{ name }}`: {{ head.task }} by `{{ model.plugin_name(name) }}`
{%- if model.classes[name] %}, {{ counted(model.classes[name] | length, "class") }}: {{ listed(
    model.classes[name] | map(attribute="name"), 20) }}{% endif %}.
{% endfor %}

## Use

With densevit and its extra `hub`:

{% if model.heads %}
```python
import densevit

model = densevit.load("hf:{{ repository }}")
result = model.predict("image.jpg")
```

```bash
densevit predict hf:{{ repository }} image.jpg
densevit train config.yaml weights=hf:{{ repository }} data=FOLDER  # config.yaml of this repository
```
{% else %}
```bash
densevit train CONFIG backbone.weights=hf:{{ repository }}
```
{% endif %}

## Data

{% for section in data %}
- `{{ section.folder_name }}`, read as `{{ section.name }}`; config.yaml has the options.
{% else %}
The data of the training is not recorded.
{% endfor %}

## Score

{% if metrics %}
| head | metric | value |
|---|---|---|
{% for head, values in metrics.items() %}
{% for name, value in values.items() %}
| {{ head }} | {{ name }} | {{ number(value) }} |
{% endfor %}
{% endfor %}

{% if data %}
On the split `{{ data[0].val_split }}`, by:
{% else %}
By:
{% endif %}

```bash
{{ command }}
```
{% else %}
No score was measured.
{% endif %}

## Licences

{% for source, stated in licences.items() %}
- {{ line(source, stated) }}
{% else %}
No licences of published weights are recorded.
{% endfor %}
"""


def model_card(
    model: DenseModel, repository: str, licences: Mapping[str, Licences], metrics: Mapping[str, float], command: str
) -> str:
    """The text of the card.

    repository: ORG/NAME. licences: the licences of the weights that the model started from, by source; without them the
    owner of the repository adds one. metrics: values by HEAD/METRIC; {}: no score was measured. command: the command
    that computes them.
    """
    from jinja2 import StrictUndefined, Template  # slow to import

    return Template(_CARD, trim_blocks=True, keep_trailing_newline=True, undefined=StrictUndefined).render(
        model=model,
        repository=repository,
        licences=licences,
        licence=re.sub(
            r"[^a-z0-9.]+", "-", " and ".join(sorted({stated.weights.lower() for stated in licences.values()}))
        ),
        is_hub_licence=_HUB_LICENCES.fullmatch,
        task=next((_PIPELINE_TAGS.get(head.task) for head in model.heads.values()), "image-feature-extraction"),
        names=[*dict.fromkeys([model.sections.backbone.name, *map(model.plugin_name, model.heads)])],
        version=densevit.__version__,
        parameters=f"{sum(parameter.numel() for parameter in model.parameters()):,}",
        data=[x for x in (model.training_data, *model.reference_data.values()) if x is not None],
        metrics={head: overall(values) for head, values in by_head(metrics).items()},
        command=command,
        counted=counted,
        listed=listed,
        number=number,
        line=line,
    )

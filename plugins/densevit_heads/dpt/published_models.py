"""Published models by layout: DPT (Ranftl et al. 2021) and Depth Anything (Yang et al. 2024; 3: Lin et al. 2025); the
papers' scores."""

from densevit.interfaces import PublishedModel

_RELATIVE = "start/depth_anything_v2 data.metric=false heads.depth.output=relative heads.depth.loss_weights.gradient=2"
_BASE = "backbone.variant=base heads.depth.width=128 heads.depth.reassemble_channels=[96,192,384,768]"
_LARGE = (
    "backbone.variant=large backbone.features=[5,12,18,24] heads.depth.width=256 "
    "heads.depth.reassemble_channels=[256,512,1024,1024]"
)
TRANSFORMERS = {
    "transformers-dpt": {
        "hf:Intel/dpt-large": PublishedModel("depth", 341_847_233, {}),
    },
    "transformers-dpt-hybrid": {
        "hf:Intel/dpt-hybrid-midas": PublishedModel("depth", 121_195_521, {}),
    },
    "transformers-dpt-segmentation": {
        "hf:Intel/dpt-large-ade": PublishedModel("segmentation", 343_235_372, {}),
    },
}
FILES = {
    "dpt-hybrid-nyu": {
        "dpt_hybrid_nyu-2ce69ec7.pt": PublishedModel(
            "depth", 121_195_521, {"AbsRel, NYU": 0.11, "delta1, NYU": 0.904}, "nyu/dpt_hybrid"
        ),
    },
    "dpt-hybrid-kitti": {
        "dpt_hybrid_kitti-cb926ef4.pt": PublishedModel(
            "depth", 121_195_521, {"AbsRel, KITTI": 0.062, "delta1, KITTI": 0.959}, "kitti/dpt_hybrid"
        ),
    },
}
DEPTH_ANYTHING = {
    **{
        name: PublishedModel(
            "depth", parameters, {"AbsRel, NYU, zero-shot": nyu, "AbsRel, KITTI, zero-shot": kitti}, recipe
        )
        for name, parameters, nyu, kitti, recipe in (
            ("hf:depth-anything/Depth-Anything-V2-Small-hf", 24_710_465, 0.053, 0.078, _RELATIVE),
            ("hf:depth-anything/Depth-Anything-V2-Base-hf", 97_174_081, 0.049, 0.078, f"{_RELATIVE} {_BASE}"),
            ("hf:depth-anything/Depth-Anything-V2-Large-hf", 334_133_441, 0.045, 0.074, f"{_RELATIVE} {_LARGE}"),
        )
    },
    **{
        name: PublishedModel("depth", parameters, {"AbsRel, NYU, zero-shot": score}, recipe)
        for name, parameters, score, recipe in (
            ("hf:LiheYoung/depth-anything-small-hf", 24_710_465, 0.053, _RELATIVE),
            ("hf:LiheYoung/depth-anything-base-hf", 97_174_081, 0.046, f"{_RELATIVE} {_BASE}"),
            ("hf:LiheYoung/depth-anything-large-hf", 334_133_441, 0.043, f"{_RELATIVE} {_LARGE}"),
        )
    },
}
DEPTH_ANYTHING_METRIC = {
    name: PublishedModel("depth", parameters, {}, recipe)
    for name, parameters, recipe in (
        ("hf:depth-anything/Depth-Anything-V2-Metric-Indoor-Small-hf", 24_710_465, "nyu/depth_anything_v2_small"),
        (
            "hf:depth-anything/Depth-Anything-V2-Metric-Outdoor-Small-hf",
            24_710_465,
            "kitti/depth_anything_v2_small",
        ),
    )
}
DEPTH_ANYTHING_3 = {
    "hf:depth-anything/DA3MONO-LARGE": PublishedModel("depth", 334_170_370, {}, "start/depth_anything_3"),
}
DEPTH_ANYTHING_3_METRIC = {
    "hf:depth-anything/DA3METRIC-LARGE": PublishedModel(
        "depth", 334_170_370, {}, "start/depth_anything_3 weights=hf:depth-anything/DA3METRIC-LARGE"
    ),
}

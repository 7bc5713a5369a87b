"""Evaluation crops of published depth protocols."""

from typing import Literal

from densevit.errors import DataError

Crop = Literal["none", "eigen", "garg", "eigen_kitti"]
NYU = (480, 640)
_FRACTIONS = {  # of height and width, from monodepth (Godard et al. 2017)
    "garg": (0.40810811, 0.99189189, 0.03594771, 0.96405229),
    "eigen_kitti": (0.3324324, 0.91351351, 0.0359477, 0.96405229),
}


def cropped(crop: Crop, height: int, width: int) -> tuple[slice, slice]:
    """The rows and columns of a crop.

    eigen: 45:471 and 41:601 of NYU's 480 x 640 images, without the white frame (Eigen et al. 2014); any other size
    raises DataError. garg, eigen_kitti: fractions of KITTI images of any size, rounded down (Garg et al. 2016;
    Eigen et al. 2014).
    """
    if crop == "none":
        return slice(None), slice(None)
    if crop == "eigen":
        if (height, width) != NYU:
            raise DataError(
                f"its depth is {height} x {width}, and the crop 'eigen' is for {NYU[0]} x {NYU[1]} (NYU). "
                "KITTI's are 'garg' and 'eigen_kitti'."
            )
        return slice(45, 471), slice(41, 601)
    top, bottom, left, right = _FRACTIONS[crop]
    return slice(int(top * height), int(bottom * height)), slice(int(left * width), int(right * width))
